"""A gateway's cluster in a line or two, as ``reverie status`` and ``reverie top`` tell of it."""

from __future__ import annotations

from typing import Any


def cluster_line(cluster: dict[str, Any]) -> str:
    """Its machines and engines.

    Args:
        cluster: as ``/admin/v1/cluster`` has it.
    """
    machines, models = cluster["machines"], cluster["models"]
    lost = sum(not machine["alive"] for machine in machines)
    draining = sum(machine["alive"] and machine["draining"] for machine in machines)
    apart = [f"{count} {word}" for count, word in ((lost, "lost"), (draining, "draining")) if count]
    running = sum(model["running"] for model in models)
    wanted = sum(model["wanted"] for model in models)
    starting = sum(model["starting"] for model in models)
    return (
        f"cluster: {counted(len(machines) + cluster['unlisted']['machines'], 'machine')}"
        + (f" ({', '.join(apart)})" if apart else "")
        + f", {running} of {counted(wanted, 'wanted engine')} run"
        + (f", {starting} on the way" if starting else "")
    )


def cluster_trouble(cluster: dict[str, Any]) -> list[str]:
    """What keeps it from doing all that is asked of it, a sentence each."""
    lines = []
    if not cluster["connected"]:
        since = f"the cluster's manager hasn't answered since {cluster['since']}"
        lines.append(f"{since}: {cluster['why']}")
    lines += [
        f"{model['model']} has {model['running']} of {counted(model['wanted'], 'engine')}: "
        f"{model['why']}"
        for model in cluster["models"]
        if model["why"]
    ]
    lines += [
        f"{engine['name']} on {engine['machine']} failed: {engine['why'] or 'it did not say why'}"
        for engine in cluster["engines"]
        if engine["state"] == "failed"
    ]
    return lines


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
