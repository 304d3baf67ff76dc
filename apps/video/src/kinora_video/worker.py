"""The transcode worker: ``python -m kinora_video.worker``. Any number may run. Serves health and metrics only."""

from kinora_kit.app import create_app, run
from kinora_kit.settings import load
from kinora_video.settings import WorkerSettings
from kinora_video.wiring import wire_worker

if __name__ == "__main__":
    loaded = load(WorkerSettings)
    run(create_app(loaded, wire_worker), loaded)
