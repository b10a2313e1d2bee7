"""What the stand-in for the W&B server knows, and what it answers to each GraphQL field."""

from __future__ import annotations

import json
from typing import Any

from tests.graphql import Operation, Refused

ENTITY = "lab"
MOMENT = "2026-01-01T00:00:00"


class Run:
    """What the server has of one run."""

    def __init__(self, project_name: str, name: str) -> None:
        self.project, self.name = project_name, name
        self.fields: dict[str, Any] = {}
        self.upserts = 0
        self.lines: dict[str, dict[int, str]] = {}
        self.files: dict[str, bytes] = {}
        self.complete = False
        self.exit_code: int | None = None
        self.preempting = False

    @property
    def config(self) -> dict[str, Any]:
        content = json.loads(self.fields.get("config") or "{}")
        return {key: entry["value"] for key, entry in content.items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(lines[number]) for number in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def state(self) -> str:
        if not self.complete:
            return "running"
        if self.exit_code == 0:
            return "finished"
        return "preempted" if self.preempting else "failed"


class Answers:
    """Runs, reports, projects and artifacts; `root` maps GraphQL fields to what answers them."""

    url: str

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: list[str] = []
        self.artifacts: dict[str, dict[str, Any]] = {}

    def known(self, name: str) -> Run:
        if name not in self.runs:
            raise Refused(f"run {name} is not known")
        return self.runs[name]

    def root(self, operation: Operation) -> dict[str, Any]:
        if operation.kind == "mutation":
            return {
                "upsertBucket": self.upsert_bucket,
                "createRunFiles": self.create_run_files,
                "createArtifact": self.create_artifact,
                "createArtifactManifest": self.create_manifest,
                "updateArtifactManifest": self.update_manifest,
                "createArtifactFiles": self.create_artifact_files,
                "commitArtifact": self.commit_artifact,
                "upsertView": self.upsert_view,
                "upsertModel": self.upsert_model,
            }
        edges = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {
            "id": "user", "entity": ENTITY, "username": ENTITY, "email": None, "flags": "{}",
            "teams": edges, "name": ENTITY, "admin": False, "apiKeys": {"edges": []},
            "deletedAt": None, "defaultEntity": {"name": ENTITY},
        }  # fmt: skip
        return {
            "viewer": viewer,
            "serverInfo": {"features": [], "cliVersionInfo": "{}", "latestLocalVersionInfo": None},
            "model": lambda name, entityName: self.model(name),
            "project": lambda name, entityName: self.project(name),
            "models": lambda entityName, after, first: {
                "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
                "edges": [{"node": self.listed_project(name)} for name in self.projects],
            },
            "organization": lambda name: None,
            "entity": lambda name: {"xxhashDigestsEnabled": False, "organization": None},
        }

    def model(self, name: str) -> dict[str, Any]:
        def bucket(name: str, missingOk: bool) -> Any:
            run = self.runs.get(name)
            return None if run is None else self.bucket(run)

        return {"id": name, "name": name, "entity": self.entity(), "bucket": bucket}

    def entity(self) -> dict[str, Any]:
        return {"id": "entity", "name": ENTITY}

    def bucket(self, run: Run) -> dict[str, Any]:
        history = run.lines.get("wandb-history.jsonl", {})
        events = run.lines.get("wandb-events.jsonl", {})

        def tail(lines: dict[int, str]) -> str:
            return json.dumps([lines[max(lines)]] if lines else [])

        return {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "description": None,
            "notes": None,
            "config": run.fields.get("config") or "{}",
            "tags": run.fields.get("tags") or [],
            "sweepName": None,
            "project": {"id": run.project, "name": run.project, "entity": self.entity()},
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "logLineCount": 0,
            "historyTail": tail(history),
            "eventsTail": tail(events),
            "wandbConfig": lambda keys: "{}",
        }

    def upsert_bucket(self, input: dict[str, Any]) -> dict[str, Any]:
        name = input["name"] or str(input["id"]).removeprefix("id-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(str(input["modelName"]), name))
        run.upserts += 1
        run.complete = False
        run.fields |= {key: value for key, value in input.items() if value is not None}
        return {"bucket": self.bucket(run), "inserted": inserted}

    def create_run_files(self, input: dict[str, Any]) -> dict[str, Any]:
        run = self.known(input["runName"])
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/runs/{run.name}/{name}"}
            for name in input["files"]
        ]
        return {"runID": f"id-{run.name}", "uploadHeaders": [], "files": files}

    def create_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        identity = f"artifact-{len(self.artifacts)}"
        run = self.known(input["runName"])
        sequence = {"id": f"sequence-{identity}", "latestArtifact": None}
        artifact = {
            "id": identity, "state": "PENDING", "artifactSequence": sequence,
            "digest": input["digest"], "type": input["artifactTypeName"], "run": run.name,
        }  # fmt: skip
        self.artifacts[identity] = artifact
        return {"artifact": artifact}

    def create_manifest(self, input: dict[str, Any]) -> dict[str, Any]:
        return self.manifest(self.artifacts[input["artifactID"]]["id"])

    def update_manifest(self, input: dict[str, Any]) -> dict[str, Any]:
        return self.manifest(input["artifactManifestID"].removeprefix("manifest-"))

    def manifest(self, artifact: str) -> dict[str, Any]:
        url = f"{self.url}/storage/artifacts/{artifact}/manifest.json"
        file = {"id": f"file-{artifact}", "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest-{artifact}", "file": file}}

    def create_artifact_files(self, input: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in input["artifactFiles"]:
            path = f"artifacts/{file['artifactID']}/{file['name']}"
            node = {
                "storagePath": path, "uploadUrl": f"{self.url}/storage/{path}",
                "uploadHeaders": [], "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }  # fmt: skip
            edges.append({"node": node})
        return {"files": {"edges": edges}}

    def commit_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[input["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"artifact": artifact}

    def upsert_model(self, input: dict[str, Any]) -> dict[str, Any]:
        self.projects.append(input["name"])
        found = self.listed_project(input["name"])
        return {"project": found, "model": found, "inserted": True}

    def listed_project(self, name: str) -> dict[str, Any]:
        return {
            "__typename": "Project", "id": "7", "name": name, "entityName": ENTITY,
            "createdAt": MOMENT, "updatedAt": MOMENT, "isBenchmark": False, "user": None,
            "description": None, "access": "PRIVATE", "views": "{}",
        }  # fmt: skip

    def upsert_view(self, input: dict[str, Any]) -> dict[str, Any]:
        json.loads(input["spec"])
        names = {view["id"]: name for name, view in self.views.items()}
        if input["id"] is not None and input["id"] not in names:
            raise Refused(f"view {input['id']} is not known")
        name = names.get(input["id"], input["name"])
        inserted = name not in self.views
        view = {
            "id": input["id"] or f"view-{len(self.views)}", "name": name, "spec": input["spec"],
            "displayName": input["displayName"], "type": input["type"],
            "description": input["description"], "user": None,
            "project": self.listed_project(input["projectName"]),
            "createdAt": MOMENT, "updatedAt": MOMENT,
        }  # fmt: skip
        self.views[name] = view
        return {"view": view, "inserted": inserted}

    def project(self, name: str) -> Any:
        runs = [run for run in self.runs.values() if run.project == name]
        if not runs and not self.views:
            return None

        def page(filters: str, after: str | None, first: int, order: str) -> dict[str, Any]:
            start = int(after or 0)
            chosen = runs[start : start + first]
            edges = [
                {"node": self.listed(run), "cursor": str(start + position + 1)}
                for position, run in enumerate(chosen)
            ]
            more = start + first < len(runs)
            end = str(start + len(chosen))
            return {"edges": edges, "pageInfo": {"endCursor": end, "hasNextPage": more}}

        def views(viewType: str, viewName: str | None, first: int, after: str | None) -> Any:
            chosen = [view for view in self.views.values() if view["type"] == viewType]
            edges = [{"node": view, "cursor": view["id"]} for view in chosen]
            return {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}

        return {
            "internalId": "7",
            "runCount": lambda filters: len(runs),
            "readOnly": False,
            "runs": page,
            "allViews": views,
            "artifact": lambda name: None,
        }

    def listed(self, run: Run) -> dict[str, Any]:
        return {
            **self.bucket(run),
            "projectId": "7",
            "state": run.state,
            "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"),
            "commit": None,
            "readOnly": False,
            "createdAt": MOMENT,
            "heartbeatAt": MOMENT,
            "systemMetrics": "{}",
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": None,
        }
