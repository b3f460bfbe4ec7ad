"""NetworkPolicies as a table of who may talk to whom: what an application needs is allowed at both ends, and nothing else is."""

from manifests import NAME, of_kind, pods, selects

# From, to, port: what the applications of deploy/k8s need of each other. docs/kubernetes.md has the same as a table.
NEEDED = {
    ("envoy", "walcast", 50051),
    ("walcast", "walcast", 50051),
    # `walcast cluster status`, which people run in a pod.
    ("walcast", "walcast", 9464),
    ("envoy", "ratelimit", 8081),
    ("ratelimit", "redis", 6379),
    ("prometheus", "walcast", 9464),
    ("prometheus", "envoy", 9902),
    ("grafana", "prometheus", 9090),
    ("grafana", "jaeger", 16686),
    ("walcast", "jaeger", 4317),
    ("envoy", "jaeger", 4317),
    ("k6", "envoy", 8080),
    # Runners of the k6 operator, and its starter, which tells them to begin.
    ("test-run", "envoy", 8080),
    ("test-run", "test-run", 6565),
}


def applications(documents):
    """The labels of the pods of each application, by its name."""
    return {labels.get(NAME, "test-run"): labels for _, labels, _ in pods(documents)}


def allowed(documents):
    """(from, to, port) that both ends allow, between the applications of `documents`."""
    policies = of_kind(documents, "NetworkPolicy")
    known = applications(documents)
    found = set()
    for sender, sender_labels in known.items():
        for receiver, receiver_labels in known.items():
            out = ports(policies, sender_labels, receiver_labels, "Egress", "egress", "to")
            into = ports(policies, receiver_labels, sender_labels, "Ingress", "ingress", "from")
            found |= {(sender, receiver, port) for port in out & into}
    return found


def ports(policies, of, other, policy_type, rules, side):
    """The ports that policies of the pods `of` allow towards, or from, the pods `other` of the same namespace."""
    found = set()
    for policy in policies:
        spec = policy["spec"]
        if policy_type not in spec["policyTypes"] or not selects(spec["podSelector"], of):
            continue
        for rule in spec.get(rules, []):
            peers = rule.get(side)
            if peers is None or any(is_peer(peer, other) for peer in peers):
                found |= {port["port"] for port in rule["ports"]}
    return found


def is_peer(peer, labels):
    """Pods of this namespace: a peer that names another one, or every one, takes none, or those that it selects."""
    if peer.get("namespaceSelector"):
        return False
    return "podSelector" in peer and selects(peer["podSelector"], labels)


def differences(documents):
    """What is needed and not allowed, or allowed and not needed, and whether all else is denied."""
    known = applications(documents)
    needed = {edge for edge in NEEDED if edge[0] in known and edge[1] in known}
    permitted = allowed(documents)
    for edge in sorted(needed - permitted):
        yield "%s may not talk to %s on port %d" % edge
    for edge in sorted(permitted - needed):
        yield "%s may talk to %s on port %d, and need not" % edge
    policies = of_kind(documents, "NetworkPolicy")
    deny = [found for found in policies if not found["spec"]["podSelector"] and not {"ingress", "egress"} & set(found["spec"])]
    if of_kind(documents, "Namespace") and not any(set(found["spec"]["policyTypes"]) == {"Ingress", "Egress"} for found in deny):
        yield "what no policy allows is not denied"
