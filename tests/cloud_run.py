"""Google's Cloud Run clients, talking to a twin."""

from dataclasses import dataclass

from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2

from mlsys.settings import get_settings


@dataclass(frozen=True)
class RunClients:
    """The clients of one twin, and the location that tests use."""

    jobs: run_v2.JobsClient
    executions: run_v2.ExecutionsClient
    tasks: run_v2.TasksClient
    parent: str

    @classmethod
    def of(cls, url: str) -> "RunClients":
        """Return clients of the twin at ``url``."""
        made = [
            client(transport="rest", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
            for client in (run_v2.JobsClient, run_v2.ExecutionsClient, run_v2.TasksClient)
        ]
        settings = get_settings()
        return cls(*made, f"projects/{settings.gcp_project_id}/locations/{settings.gcp_region}")

    def create(self, name: str, **task) -> run_v2.Job:
        """Create a job; ``task`` are fields of its task's template, or of its container (args, env)."""
        container = {"image": "any", **{key: task.pop(key) for key in ("args", "env") if key in task}}
        job = {"template": {"template": {"containers": [container], **task}}}
        return self.jobs.create_job(parent=self.parent, job_id=name, job=job).result()

    def run(self, job: str, **overrides):
        """Start an execution; return its operation."""
        return self.jobs.run_job(request={"name": job, "overrides": overrides})

    def executions_of(self, job: str) -> list[run_v2.Execution]:
        """Return a job's executions, the latest one first."""
        name = job if "/" in job else f"{self.parent}/jobs/{job}"
        return list(self.executions.list_executions(parent=name))

    def tasks_of(self, execution: str) -> list[run_v2.Task]:
        """Return an execution's tasks."""
        return list(self.tasks.list_tasks(parent=execution))
