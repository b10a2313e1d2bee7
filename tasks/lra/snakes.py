"""Growing the snakes of many Pathfinder images at once.

Images are rows of flat canvases; one step adds one paddle to every image that still grows. The
blocked neighbourhood is kept up to date paddle by paddle, since
the dilation of a maximum is the maximum of the dilations.
"""

from __future__ import annotations

import numpy as np

from tasks.lra.paddles import DEGREES, FULL, Pieces, Tables
from tasks.lra.streams import Numbers
from tasks.lra.strokes import marker

OVERLAP = 459  # 1.8 of 255: two paddles overlap where the sum of their masks reaches this
FREE = 76  # 0.3 of 255: a mask up to this leaves a cell free for a new snake
LEAST_WEIGHT = 1e-4
LEAST_FREE_SHARE = 0.01
WAITING_SHARE = 8


def _put(
    canvas: np.ndarray, rows: np.ndarray, start: np.ndarray, kind: np.ndarray, pieces: Pieces
) -> None:
    """Lays one piece over each of the canvases `rows` (k, different), the larger value stays."""
    cells = (rows * canvas.shape[1] + start)[:, None] + pieces.steps[kind]
    flat = canvas.reshape(-1)
    flat[cells] = np.maximum(flat[cells], pieces.values[kind])


class Herd:
    """The snakes of n images with one margin.

    Args:
        tables: of the law and the margin.
        numbers: the streams of the n images.
    """

    def __init__(self, tables: Tables, numbers: Numbers) -> None:
        law, n = tables.law, len(numbers.state)
        self.tables, self.numbers, self.n = tables, numbers, n
        self.mask = np.tile(tables.mask, (n, 1))
        self.reach = np.tile(tables.reach, (n, 1))
        # Of each snake: the flat cell its newest paddle hinges on, its paddles' cells and kinds.
        snakes = 2 + law.distractors
        length = max(law.contour_length, law.distractor_length)
        self.pivot = np.zeros((n, snakes), np.int64)
        self.start = np.zeros((n, snakes, length), np.int64)
        self.kind = np.full((n, snakes, length), -1, np.int64)

    def occupy(self, rows: np.ndarray, start: np.ndarray, kind: np.ndarray) -> None:
        """Marks the cells of one paddle in each of the images `rows`."""
        _put(self.mask, rows, start, kind, self.tables.masks)
        _put(self.reach, rows, start, kind, self.tables.reaches)

    def begin(self, rows: np.ndarray, snake: int | np.ndarray, start, degree) -> np.ndarray:
        """Lays first paddles where their head and hinge lie in the image; which were laid."""
        tables = self.tables
        pivot = start + tables.hinge[degree]
        fits = tables.inside[start + tables.head[degree]] & tables.inside[pivot]
        laid = rows[fits]
        self.pivot[laid, snake] = pivot[fits]
        self.start[laid, snake, 0] = start[fits]
        self.kind[laid, snake] = -1
        self.kind[laid, snake, 0] = degree[fits]
        return fits

    def extend(self, rows: np.ndarray, snake: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Adds a paddle to one snake of each image, where there is room, and occupies the one
        before it; which were added.

        Args:
            rows: int64 (k,), different images.
            snake: (k,), which of their snakes.
            length: (k,), how many paddles it has.
        """
        tables, area = self.tables, self.mask.shape[1]
        start, kind = self.start[rows, snake, length - 1], self.kind[rows, snake, length - 1]
        pivot = self.pivot[rows, snake] + tables.step[kind]
        base = rows * area
        free = FULL - self.reach.reshape(-1)[(base + pivot)[:, None] + tables.ring]
        sums = np.cumsum(tables.weights[kind] * free, axis=1)
        total = sums[:, -1]
        new = np.zeros(len(rows), np.int64)
        added = np.zeros(len(rows), bool)
        trying = np.flatnonzero(total >= LEAST_WEIGHT)
        flat = self.mask.reshape(-1)
        for _ in range(tables.law.paddle_retries + 1):
            if not len(trying):
                break
            mark = self.numbers.uniform(rows[trying]) * total[trying]
            choice = (sums[trying] <= mark[:, None]).sum(axis=1)
            cell = pivot[trying] + tables.ring[choice]
            steps, values = (part[DEGREES + choice] for part in tables.masks)
            clash = np.add(flat[(base[trying] + cell)[:, None] + steps], values, dtype=np.uint16)
            fits = clash.max(axis=1) < OVERLAP
            done = trying[fits]
            self.start[rows[done], snake[done], length[done]] = cell[fits]
            new[done] = DEGREES + choice[fits]
            added[done] = True
            trying = trying[~fits]
        grown, its = rows[added], snake[added]
        self.kind[grown, its, length[added]] = new[added]
        self.pivot[grown, its] = pivot[added]
        self.occupy(grown, start[added], kind[added])
        return added

    def _begin_targets(self, rows: np.ndarray) -> np.ndarray:
        """Clears the images `rows` and lays the first paddles of both target snakes; which of the
        rows got both."""
        tables, law, numbers = self.tables, self.tables.law, self.numbers
        self.mask[rows], self.reach[rows] = tables.mask, tables.reach
        laid = np.zeros((2, len(rows)), bool)
        for snake in (0, 1):
            trying = np.arange(len(rows)) if snake == 0 else np.flatnonzero(laid[0])
            for _ in range(law.paddle_retries + 1):
                degree = numbers.below(rows[trying], DEGREES)
                if snake == 0:
                    count = tables.first_counts[degree]
                    trying, degree, count = trying[count > 0], degree[count > 0], count[count > 0]
                    start = tables.first_starts[degree, numbers.below(rows[trying], count)]
                else:
                    angle = numbers.below(rows[trying], DEGREES) * np.pi / 180
                    offset = law.seed_distance * np.stack((np.sin(angle), np.cos(angle)), axis=1)
                    start = self.start[rows[trying], 0, 0]
                    start = start + tables.flat(np.round(offset).astype(np.int64))
                fits = self.begin(rows[trying], snake, start, degree)
                laid[snake, trying[fits]] = True
                trying = trying[~fits]
        return laid[1]

    def grow_targets(self) -> None:
        """Grows both target snakes of every image in turns; a pair that finds no room begins anew.

        Pairs begin anew tens (32 pixels) or hundreds of times (64 pixels).
        """
        contour = self.tables.law.contour_length
        placed = np.zeros(self.n, np.int64)  # paddles of the image's two snakes, 0 to begin anew
        rows = np.arange(self.n)
        while len(rows):
            fresh = rows[placed[rows] == 0]
            # A step costs much the same for few images as for many, so they wait for each other.
            if len(fresh) * WAITING_SHARE >= len(rows):
                placed[fresh[self._begin_targets(fresh)]] = 2
            growing = rows[placed[rows] > 0]
            count = placed[growing]
            added = self.extend(growing, count % 2, count // 2)
            placed[growing] = np.where(added, count + 1, 0)
            rows = rows[placed[rows] < 2 * contour]
        everyone = np.arange(self.n)
        # The published generator leaves the last paddle of the first snake unmarked.
        self.occupy(everyone, self.start[:, 1, contour - 1], self.kind[:, 1, contour - 1])

    def grow_distractors(self) -> None:
        """Grows the distractor snakes; one that finds no room is left out."""
        law = self.tables.law
        for snake in range(2, 2 + law.distractors):
            rows = np.arange(self.n)
            for _ in range(law.snake_retries + 1):
                rows = rows[~self._grow_distractor(rows, snake)]

    def _grow_distractor(self, rows: np.ndarray, snake: int) -> np.ndarray:
        law = self.tables.law
        growing = np.zeros(len(rows), bool)
        growing[self._begin_distractor(rows, snake)] = True
        tried = np.flatnonzero(growing)
        before = self.mask[rows[tried]], self.reach[rows[tried]]
        for length in range(1, law.distractor_length):
            alive = np.flatnonzero(growing)
            same = np.full(len(alive), snake), np.full(len(alive), length)
            growing[alive] = self.extend(rows[alive], *same)
        lost = ~growing[tried]
        self.mask[rows[tried[lost]]] = before[0][lost]
        self.reach[rows[tried[lost]]] = before[1][lost]
        self.kind[rows[tried[lost]], snake] = -1
        last = law.distractor_length - 1
        done = rows[growing]
        self.occupy(done, self.start[done, snake, last], self.kind[done, snake, last])
        return growing

    def _begin_distractor(self, rows: np.ndarray, snake: int) -> np.ndarray:
        """Lays first paddles where there is room; at which places in `rows` they were laid."""
        tables, law, numbers = self.tables, self.tables.law, self.numbers
        least = LEAST_FREE_SHARE * law.side**2
        trying, laid = np.arange(len(rows)), []
        for _ in range(law.paddle_retries + 1):
            degree = numbers.below(rows[trying], DEGREES)
            mark = numbers.uniform(rows[trying])
            start = np.full(len(trying), -1)
            for place, row in enumerate(rows[trying].tolist()):
                blocked = self.mask[row] > FREE
                if np.count_nonzero(tables.inside & ~blocked) >= least:
                    cells = tables.starts(blocked | tables.border, degree[place])
                    if len(cells):
                        start[place] = cells[int(mark[place] * len(cells))]
            some = start >= 0
            trying, start, degree = trying[some], start[some], degree[some]
            fits = self.begin(rows[trying], snake, start, degree)
            laid.append(trying[fits])
            trying = trying[~fits]
        return np.concatenate(laid)

    def pictures(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Draws the images; the fields of `Pictures`.

        Args:
            labels: (n,), 1 where both discs stand on one snake.
        """
        tables, law = self.tables, self.tables.law
        everyone, contour = np.arange(self.n), law.contour_length
        origin = self.numbers.below(everyone, 2)
        terminal = np.where(labels == 1, origin, 1 - origin)
        discs = np.stack(
            (self.start[everyone, origin, 0], self.start[everyone, terminal, contour - 1]), axis=1
        )
        target = law.snake_contrast * law.paddle_contrast
        layers = [
            self._layer([0, 1], contour) * np.float32(target / FULL),
            self._layer(range(2, 2 + law.distractors), law.distractor_length)
            * np.float32(law.snake_contrast / FULL),
            self._disc_layer(discs) * np.float32(1 / FULL),
        ]
        image = np.maximum.reduce(layers)
        low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
        chosen = self.kind[:, :2, :contour]
        return {
            "images": ((image - low) * (FULL / (high - low)) + 0.5).astype(np.uint8),
            "labels": labels,
            "starts": self._cells(self.start[:, :2, :contour]),
            "orientations": tables.drawn[chosen],
            "discs": self._cells(discs),
            "distractors": (self.kind[:, 2:, 0] >= 0).sum(axis=1),
        }

    def _cells(self, flat: np.ndarray) -> np.ndarray:
        """Flat positions (...) as cells (..., 2) of the image."""
        return np.stack(np.divmod(flat, self.tables.width), axis=-1) - self.tables.frame

    def _layer(self, snakes, length: int) -> np.ndarray:
        """The paddles of some snakes, uint8 (n, side, side)."""
        tables, law = self.tables, self.tables.law
        layer = np.zeros_like(self.mask)
        for snake in snakes:
            for paddle in range(length):
                rows = np.flatnonzero(self.kind[:, snake, paddle] >= 0)
                start, kind = self.start[rows, snake, paddle], self.kind[rows, snake, paddle]
                _put(layer, rows, start, kind, tables.lines)
        cut = slice(tables.frame, tables.frame + law.side)
        return layer.reshape(-1, tables.width, tables.width)[:, cut, cut]

    def _disc_layer(self, discs: np.ndarray) -> np.ndarray:
        law = self.tables.law
        disc = marker(law.marker_radius, law.antialias)
        reach = len(disc) // 2
        layer = np.zeros((self.n, law.side + 2 * reach, law.side + 2 * reach), np.uint8)
        for cells in self._cells(discs).transpose(1, 0, 2).tolist():
            for image, (row, column) in zip(layer, cells, strict=True):
                window = image[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                np.maximum(window, disc, out=window)
        return layer[:, reach : reach + law.side, reach : reach + law.side]
