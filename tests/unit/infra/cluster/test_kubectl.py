from crossfold.infra.cluster.kubectl import trouble


def test_why_a_pod_does_not_run() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    container = {"state": waiting}
    pulling = {"status": {"phase": "Pending", "containerStatuses": [container]}}
    assert trouble(pulling) == "ImagePullBackOff: not found"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    unplaced = {"phase": "Pending", "conditions": [{**condition, "message": "Insufficient cpu"}]}
    assert trouble({"status": unplaced}) == "Unschedulable: Insufficient cpu"
    probe = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    assert trouble({"status": {"phase": "Running", "conditions": [probe]}}) == "ContainersNotReady"
    assert trouble({"status": {"phase": "Running"}}) == ""
    assert trouble({"status": {"phase": "Succeeded"}}) == ""
