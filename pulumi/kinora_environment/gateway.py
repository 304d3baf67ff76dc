"""Traefik, the only publicly reachable component: its workload, and what applies to every route.

The routes and their guards are deployed with the services (Argo CD). Everything else is read from traefik/, which also
configures Traefik natively, so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

from kinora_environment import config, upstream
from kinora_environment.place import Place, role_selector, selector
from kinora_environment.sizes import Sizes
from kinora_environment.workload import Container, Volume, Workload, WorkloadArgs, config_map, named, scraped

NATIVE = Path(__file__).resolve().parents[2] / "traefik"
NAME = "traefik"
USER = 65532
WEB, WEBSECURE, METRICS = 8080, 8443, 8081
MERGED_METRICS = 15020
"""Where a sidecar serves its own metrics merged with Traefik's; the mesh makes Prometheus scrape it."""
FILE = "services.yml"
"""Services that Traefik reads from a file, because they are in another namespace or used by an entry point."""
UNAVAILABLE = "unavailable"
FALLBACK_PORT = 8109

TRAEFIK_KINDS = (
    "ingressroutes",
    "ingressroutetcps",
    "ingressrouteudps",
    "middlewares",
    "middlewaretcps",
    "serverstransports",
    "serverstransporttcps",
    "tlsoptions",
    "tlsstores",
    "traefikservices",
)
# Traefik watches all of these in every namespace that it serves, whether a route needs them or not, and loads no routes
# before it has listed each. So it can read the services' Secrets: a compromised gateway has them, too.
RIGHTS = [
    {"api_groups": [group], "resources": list(resources), "verbs": ["list", "watch"]}
    for group, resources in (
        ("", ("configmaps", "secrets", "services")),
        ("discovery.k8s.io", ("endpointslices",)),
        ("traefik.io", TRAEFIK_KINDS),
    )
]

# Only outbound traffic passes the mesh: clients connect to Traefik itself, and the services get mutual TLS. The API
# server is not in the mesh, and must be reachable whatever the sidecar does.
MESH_ANNOTATIONS = {
    "traffic.sidecar.istio.io/includeInboundPorts": "",
    "traffic.sidecar.istio.io/excludeOutboundPorts": "443",
}

# Without a mesh (istio/values.yaml), Traefik retries on another pod if the connection to one broke (502), including
# calls to auth or video for ForwardAuth. Not for 500 and 503, which are a service's own responses. POST and PATCH are
# retried, too (docs/adr/0011-repeats.md), but not with bodies too large to buffer: uploads resume instead. The attempts
# take about a second, which is how long it takes until all endpoints of a terminated pod are removed.
RETRY = {
    "retry": {
        "attempts": 4,
        "initialInterval": "250ms",
        "timeout": "5s",
        "status": ["502"],
        "retryNonIdempotentMethod": True,
        "maxRequestBodyBytes": 65536,
    }
}


@dataclass(frozen=True)
class GatewayArgs:
    place: Place
    apps: Place
    """The namespace of routes and services."""
    config: config.Gateway
    sizes: Sizes
    images: Mapping[str, str]
    mesh: bool
    streams: str
    """The object store's URL, without a trailing slash: it serves segments directly."""


def native(file: str) -> dict[str, Any]:
    """A file of traefik/."""
    loaded: dict[str, Any] = yaml.safe_load((NATIVE / file).read_text())
    return loaded


def default_middlewares() -> list[str]:
    """The middlewares of every request, before those of its route, in order."""
    return [name.removesuffix("@file") for name in native("traefik.yml")["entryPoints"]["web"]["http"]["middlewares"]]


def middlewares(args: GatewayArgs) -> Mapping[str, Mapping[str, Any]]:
    """The middlewares of every request, as objects by name, in order."""
    known = native("dynamic/middlewares.yml")["http"]["middlewares"]
    found = {name: known[name] for name in default_middlewares() if name != UNAVAILABLE}
    if trusted := args.config.trusted_addresses:
        # Behind a load balancer, all clients share the balancer's remote address.
        found["in-flight"]["inFlightReq"]["sourceCriterion"] = {"ipStrategy": {"excludedIPs": trusted}}
    # Last, so that other pods are tried before the client gets an error.
    return found if args.mesh else {**found, "retry": RETRY}


def entry_middlewares(args: GatewayArgs, names: list[str]) -> list[str]:
    """In an entry point's notation: those in ``names``, then the retry."""
    names = [name for name in names if name != UNAVAILABLE]
    # With safeNaming, names of one namespace cannot collide with those of another.
    objects = [f"{args.place.namespace}_{name}@kubernetescrd" for name in names]
    retry = [] if args.mesh else [f"{args.place.namespace}_retry@kubernetescrd"]
    return [*objects, f"{UNAVAILABLE}@file", *retry]


def static_configuration(args: GatewayArgs) -> dict[str, Any]:
    """traefik/traefik.yml with the changes for a cluster."""
    configuration = native("traefik.yml")
    web, admin = configuration["entryPoints"]["web"], configuration["entryPoints"]["admin"]
    web["address"], admin["address"] = f":{WEB}", f":{METRICS}"
    web["http"]["middlewares"] = entry_middlewares(args, default_middlewares())
    configuration["entryPoints"]["checks"]["http"]["middlewares"] = entry_middlewares(args, [])
    if args.config.trusted_addresses:
        web["forwardedHeaders"] = {"trustedIPs": args.config.trusted_addresses}
    # It keeps accepting requests until every node has removed it from the endpoints.
    web["transport"]["lifeCycle"]["requestAcceptGraceTimeout"] = "10s"
    admin["transport"] = {"lifeCycle": {"requestAcceptGraceTimeout": "10s"}}
    configuration["ping"]["manualRouting"] = True
    if args.config.certificate:
        secure = configuration["entryPoints"]["websecure"] = deepcopy(web)
        secure["address"], secure["http"]["tls"] = f":{WEBSECURE}", {}
        # The port that clients use, not Traefik's own.
        web["http"]["redirections"] = {"entryPoint": {"to": ":443", "scheme": "https", "permanent": True}}
    configuration["providers"] = {
        # Endpoint changes must take effect soon.
        "providersThrottleDuration": "500ms",
        "file": {"filename": f"/config/{FILE}", "watch": False},
        "kubernetesCRD": {
            "namespaces": [args.place.namespace, args.apps.namespace],
            "allowCrossNamespace": False,
            "safeNaming": True,
            # No cluster-wide permissions, so IngressClasses and NodePorts are not supported.
            "disableClusterScopeResources": True,
            "defaultTLSResourcesNamespace": args.place.namespace,
            # The sidecar routes by cluster IP, not by pod address, and balances better.
            "nativeLBByDefault": args.mesh,
        },
    }
    return configuration


def file_configuration(args: GatewayArgs) -> dict[str, Any]:
    """The services `streams` and `fallback` of traefik/dynamic at their addresses here, and fallback's middlewares.

    In a file, because routes and entry points' middlewares cannot reference a Service of another namespace, and because
    Traefik does not drop a service from a file if it has no pods.
    """
    services = native("dynamic/services.yml")["http"]["services"]
    fallback = f"http://fallback.{args.apps.namespace}.svc.cluster.local:{FALLBACK_PORT}"
    for name, url in (("streams", args.streams), ("fallback", fallback)):
        services[name]["loadBalancer"]["servers"] = [{"url": url}]
    unavailable = native("dynamic/middlewares.yml")["http"]["middlewares"][UNAVAILABLE]
    if args.mesh:
        # In the mesh, Traefik's own proxy answers in plain text if there is no endpoint, with 503 like the services.
        unavailable["errors"]["status"].append("503")
    return {
        "http": {
            "services": {name: services[name] for name in ("streams", "fallback")},
            "middlewares": {UNAVAILABLE: unavailable},
        }
    }


class Gateway(pulumi.ComponentResource):
    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Gateway", name, None, opts)
        self._args = args
        child = pulumi.ResourceOptions(parent=self)
        definitions = upstream.custom_resource_definitions("traefik-crds", child)
        self._defined = pulumi.ResourceOptions(parent=self, depends_on=definitions)
        self._middlewares()
        if args.config.certificate:
            self._tls(args.config.certificate)
        self._ping()
        self._network(child)
        workload = self._workload(child)
        for place in (args.place, args.apps):
            self._rbac(place, child)
        self.address = workload.service.status.apply(self._address)
        self.register_outputs({"address": self.address})

    def _metadata(self, name: str) -> dict[str, Any]:
        place = self._args.place
        return {"name": name, "namespace": place.created, "labels": place.labels(NAME)}

    def _resource(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        k8s.apiextensions.CustomResource(
            f"{NAME}-{kind.lower()}-{name}",
            api_version="traefik.io/v1alpha1",
            kind=kind,
            metadata=self._metadata(name),
            spec=spec,
            opts=self._defined,
        )

    def _middlewares(self) -> None:
        for name, spec in middlewares(self._args).items():
            self._resource("Middleware", name, spec)

    def _tls(self, certificate: str) -> None:
        # Named `default`, both apply to every route.
        self._resource("TLSStore", "default", {"defaultCertificate": {"secretName": certificate}})
        self._resource("TLSOption", "default", {"minVersion": "VersionTLS12"})

    def _ping(self) -> None:
        """Readiness through a route: Traefik starts to serve at once, but loads this route together with all others."""
        route = {
            "kind": "Rule",
            "match": "Path(`/ping`)",
            "services": [{"kind": "TraefikService", "name": "ping@internal"}],
        }
        self._resource("IngressRoute", "ping", {"entryPoints": ["admin"], "routes": [route]})

    def _workload(self, opts: pulumi.ResourceOptions) -> Workload:
        args = self._args
        texts = {
            file: yaml.safe_dump(content, sort_keys=False)
            for file, content in (("traefik.yml", static_configuration(args)), (FILE, file_configuration(args)))
        }
        file = config_map(NAME, args.place, texts, opts)
        ports = {"web": WEB, **({"websecure": WEBSECURE} if args.config.certificate else {}), "metrics": METRICS}
        return Workload(
            NAME,
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[
                    Container(
                        NAME,
                        args.images["traefik"],
                        args.sizes.gateway,
                        command=["traefik", "--configFile=/config/traefik.yml"],
                        ports=ports,
                        ready={"http_get": {"path": "/ping", "port": METRICS}},
                        alive={"tcp_socket": {"port": METRICS}},
                    )
                ],
                volumes={"config": Volume("/config", config=file)},
                replicas=args.sizes.replicas,
                stateful=False,
                token=True,
                annotations={**MESH_ANNOTATIONS, **scraped(METRICS)} if args.mesh else {},
                configuration="".join(texts.values()),
                service=self._service(),
                # 10 s of accepting requests and 20 s of answering them, as in traefik.yml, plus a margin.
                grace_seconds=40,
            ),
            opts,
        )

    def _service(self) -> dict[str, Any]:
        args = self._args.config
        ports: list[dict[str, Any]] = [{"name": "web", "port": 80, "target_port": "web"}]
        if args.certificate:
            ports.append({"name": "websecure", "port": 443, "target_port": "websecure"})
        if args.node_port:
            ports[-1]["node_port"] = args.node_port
        # Local preserves the client's address, which throttling depends on.
        return {"type": args.service, "external_traffic_policy": "Local", "ports": ports}

    def _network(self, opts: pulumi.ResourceOptions) -> None:
        args = self._args
        public = [WEB, WEBSECURE] if args.config.certificate else [WEB]
        k8s.networking.v1.NetworkPolicy(
            NAME,
            metadata=self._metadata(NAME),
            spec={
                "pod_selector": {"match_labels": selector(NAME)},
                "policy_types": ["Ingress"],
                "ingress": [
                    # Without `from`: open to everybody.
                    {"ports": [{"port": port, "protocol": "TCP"} for port in public]},
                    {
                        "from_": [{"namespace_selector": role_selector(args.place.environment, "monitoring")}],
                        "ports": [{"port": MERGED_METRICS if args.mesh else METRICS, "protocol": "TCP"}],
                    },
                ],
            },
            opts=opts,
        )

    def _rbac(self, place: Place, opts: pulumi.ResourceOptions) -> None:
        metadata = {"name": NAME, "namespace": place.created, "labels": place.labels(NAME)}
        role = k8s.rbac.v1.Role(f"{NAME}-{place.role}", metadata=metadata, rules=RIGHTS, opts=opts)
        k8s.rbac.v1.RoleBinding(
            f"{NAME}-{place.role}",
            metadata=metadata,
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": named(role)},
            subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": self._args.place.created}],
            opts=opts,
        )

    def _address(self, status: Any) -> str:
        """The address for clients, if it is known yet."""
        args = self._args
        scheme = "https" if args.config.certificate else "http"
        if args.config.service == "NodePort":
            return f"{scheme}://<a node that runs it>:{args.config.node_port}"
        balancer = (status or {}).get("load_balancer") or {}
        for each in balancer.get("ingress") or []:
            return f"{scheme}://{each.get('hostname') or each.get('ip')}"
        return f"not known yet; look it up: kubectl --namespace {args.place.namespace} get service {NAME}"
