"""What we use of Flower's private parts is still there, as we use it. For a new version of flwr: run this first."""

import inspect

import flwr.app
from flwr.cli.build import build_fab_from_files
from flwr.cli.install import install_from_fab
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.proto.transport_pb2 import Scalar
from flwr.serverapp import Grid
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_executor_s_parts():
    assert names(RuntimeHttpClient.from_server_address)[:4] == [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ]
    assert {"AcquireTask", "PushTaskOutput", "SendTaskHeartbeat"} <= set(dir(RuntimeHttpClient))
    assert PushTaskOutputRequest(sub_status="failed", details="x")
    assert SendTaskHeartbeatRequest()
    assert AcquireTaskRequest(supported_task_types=["flwr-clientapp"])
    assert {"task", "token"} <= set(AcquireTaskResponse.DESCRIPTOR.fields_by_name)
    assert "fab_hash" in AcquireTaskResponse().task.DESCRIPTOR.fields_by_name
    assert "component_name" in names(RuntimeVersionHttpInterceptor)
    assert names(SuperExecAuthHttpInterceptor)[:2] == ["master_secret", "protected_methods"]
    assert names(RuntimeTokenHttpInterceptor) == ["token"]
    assert names(run_clientapp.pull_task_input) == ["client"]
    assert names(run_clientapp.push_message) == ["client", "message", "context"]
    assert names(run_clientapp.push_task_output) == ["client", "context", "sub_status", "details"]
    assert names(install_from_fab) == ["fab_file", "install_dir", "skip_prompt"]


def test_the_control_s_parts():
    assert {"StartRun", "ListRuns", "RegisterNode", "close"} <= set(dir(ControlHttpClient))
    assert StartRunRequest(fab=Fab(hash_str="x", content=b""), override_config={"run": Scalar(string="r1")})
    assert RegisterNodeRequest(public_key=b"", name="acme")
    assert ListRunsRequest(run_id=1).run_id == 1


def test_the_grid_s_parts():
    assert set(Grid.__abstractmethods__) == {
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "send_and_receive",
        "set_run",
    }
    assert {"node_id", "name", "status"} <= set(NodeInfo.DESCRIPTOR.fields_by_name)
    assert callable(inflatable_object.get_all_nested_objects)
    assert callable(inflatable_object.no_object_id_recompute)
    assert names(inflatable_utils.inflate_object_from_contents)[:2] == ["object_id", "object_contents"]


def test_the_public_parts():
    assert {"Array", "ArrayRecord", "ConfigRecord", "Context", "Error", "Message", "RecordDict"} <= set(
        flwr.app.__all__
    )
    assert {"dtype", "shape", "stype", "data"} <= set(names(flwr.app.Array))
    assert names(build_fab_from_files) == ["files"]
