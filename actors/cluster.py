"""A Ray cluster of our own: its settings, how it is started, and which of Ray's processes it does without."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from actors import names

CLUSTER_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 lets any other program push a service with deadlines aside
    "RAY_task_events_report_interval_ms": "0",  # a record of every call: the GCS grew by 2 MiB a minute
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",  # ten times fewer rounds over replicas that seldom change
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",  # Serve's own counters; Ray reports every 10 s
    "RAY_SERVE_EVENT_LOOP_MONITORING_INTERVAL_S": "30",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # our replicas never block their loop; saves two hops a call
    # A node that vanishes without a word is given up after five questions without an answer: 17 s, with Ray's 3 and 10 s a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    # What the raylet looks at several times a second, on a node whose processes come and go once a day:
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_raylet_check_gc_period_milliseconds": "1000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "2000",
    "RAY_local_fs_monitor_interval_ms": "2000",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_event_stats_print_interval_ms": "0",
    "RAY_event_stats": "0",  # every worker looks for signals 100 times a second, and that was timed as well
    "RAY_io_context_event_loop_lag_collection_interval_ms": "0",
}
"""Environment of every process of a cluster of our own, where it is not set otherwise; the pods of ``kube/`` have it too."""
WITHOUT_DASHBOARD = {"RAY_enable_metrics_collection": "0"}  # the dashboard is who reads them


def start(cpus: int, dashboard: bool) -> None:
    """Start a cluster and join it. It ends with ``ray.shutdown``, or with this process.

    Args:
        cpus: that it announces.
        dashboard: whether it has Ray's dashboard, and the metrics that this reads.
    """
    for name, value in (CLUSTER_SETTINGS | ({} if dashboard else WITHOUT_DASHBOARD)).items():
        os.environ.setdefault(name, value)
    ray.init(
        address="local",  # else Ray joins whatever cluster was started on this machine last
        num_cpus=cpus,
        include_dashboard=dashboard,
        namespace=names.NAMESPACE,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    _end_idle_processes(dashboard)


def _end_idle_processes(dashboard: bool) -> None:
    """End what ``ray.init`` starts and nobody needs. Ray has no setting for it, and stops without complaint all the same.

    The log monitor reads all logs for drivers that want to see them (1.1 % of a core); without the dashboard, its server
    stays for usage statistics and the autoscaler's monitor for its display (120 MiB together).
    """
    node: Any = ray._private.worker._global_node
    node.kill_log_monitor(check_alive=False)
    if not dashboard:
        node.kill_monitor(check_alive=False)
        node.kill_dashboard(check_alive=False)
