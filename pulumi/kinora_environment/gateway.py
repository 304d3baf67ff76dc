"""Traefik, the one thing that is reachable from outside: how it runs, and what holds for every route.

The routes themselves, and who may pass on each, come with the services (Argo CD). What this file does not say stands in
traefik/, from which Traefik also runs natively: it is read here, so that the two can never differ by accident.
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
"""Where a sidecar shows its own metrics and Traefik's: the mesh makes Prometheus ask there."""
FILE = "services.yml"
"""What Traefik reads from a file, as it is not in the namespace of the routes or named by an entry point."""
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
# Traefik watches all of these in every namespace that it serves, whether a route needs them or not, and takes up
# nothing before it has seen each. So it can read the services' Secrets: whoever takes the gateway over has them, too.
RIGHTS = [
    {"api_groups": [group], "resources": list(resources), "verbs": ["list", "watch"]}
    for group, resources in (
        ("", ("configmaps", "secrets", "services")),
        ("discovery.k8s.io", ("endpointslices",)),
        ("traefik.io", TRAEFIK_KINDS),
    )
]

# In the mesh outwards only: clients speak plain HTTP or TLS to Traefik itself, and the services get mutual TLS. The API
# server is not in the mesh, and must be reachable whatever the sidecar does.
MESH_ANNOTATIONS = {
    "traffic.sidecar.istio.io/includeInboundPorts": "",
    "traffic.sidecar.istio.io/excludeOutboundPorts": "443",
}

# Where there is no mesh to do it (istio/values.yaml), Traefik asks another pod when one ends in the middle: when the
# connection to it broke (502), also to auth or video when it asks who may pass. Not 500 and 503, which are a service's
# own words. POST and PATCH, too (docs/adr/0011-repeats.md), but not with more than is good to hold in memory: whoever
# uploads goes on where it was. The tries last about a second, which it takes until all know that a pod is gone.
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
    """Where routes and services are."""
    config: config.Gateway
    sizes: Sizes
    images: Mapping[str, str]
    mesh: bool
    streams: str
    """Where the object store is, without a slash at the end: it answers for segments itself."""


def native(file: str) -> dict[str, Any]:
    """A file of traefik/."""
    loaded: dict[str, Any] = yaml.safe_load((NATIVE / file).read_text())
    return loaded


def default_middlewares() -> list[str]:
    """The middlewares that every request goes through before any route's own, in order."""
    return [name.removesuffix("@file") for name in native("traefik.yml")["entryPoints"]["web"]["http"]["middlewares"]]


def middlewares(args: GatewayArgs) -> Mapping[str, Mapping[str, Any]]:
    """The middlewares of every request that are objects, by their names, in order."""
    known = native("dynamic/middlewares.yml")["http"]["middlewares"]
    found = {name: known[name] for name in default_middlewares() if name != UNAVAILABLE}
    if trusted := args.config.trusted_addresses:
        # Behind a load balancer the remote address is the balancer's, which all clients share.
        found["in-flight"]["inFlightReq"]["sourceCriterion"] = {"ipStrategy": {"excludedIPs": trusted}}
    # Last: before anybody is told that a pod is away, others are asked.
    return found if args.mesh else {**found, "retry": RETRY}


def entry_middlewares(args: GatewayArgs, names: list[str]) -> list[str]:
    """As an entry point names them: those of ``names``, and the retry last."""
    names = [name for name in names if name != UNAVAILABLE]
    # With safeNaming: no name of one namespace can be made to mean something in the other.
    objects = [f"{args.place.namespace}_{name}@kubernetescrd" for name in names]
    retry = [] if args.mesh else [f"{args.place.namespace}_retry@kubernetescrd"]
    return [*objects, f"{UNAVAILABLE}@file", *retry]


def static_configuration(args: GatewayArgs) -> dict[str, Any]:
    """traefik/traefik.yml with what a cluster changes."""
    configuration = native("traefik.yml")
    web, admin = configuration["entryPoints"]["web"], configuration["entryPoints"]["admin"]
    web["address"], admin["address"] = f":{WEB}", f":{METRICS}"
    web["http"]["middlewares"] = entry_middlewares(args, default_middlewares())
    configuration["entryPoints"]["checks"]["http"]["middlewares"] = entry_middlewares(args, [])
    if args.config.trusted_addresses:
        web["forwardedHeaders"] = {"trustedIPs": args.config.trusted_addresses}
    # It goes on taking requests until every node has learnt that it is going.
    web["transport"]["lifeCycle"]["requestAcceptGraceTimeout"] = "10s"
    admin["transport"] = {"lifeCycle": {"requestAcceptGraceTimeout": "10s"}}
    configuration["ping"]["manualRouting"] = True
    if args.config.certificate:
        secure = configuration["entryPoints"]["websecure"] = deepcopy(web)
        secure["address"], secure["http"]["tls"] = f":{WEBSECURE}", {}
        # The port that clients see, not Traefik's own.
        web["http"]["redirections"] = {"entryPoint": {"to": ":443", "scheme": "https", "permanent": True}}
    configuration["providers"] = {
        # That a pod is gone has to be known soon.
        "providersThrottleDuration": "500ms",
        "file": {"filename": f"/config/{FILE}", "watch": False},
        "kubernetesCRD": {
            "namespaces": [args.place.namespace, args.apps.namespace],
            "allowCrossNamespace": False,
            "safeNaming": True,
            # No rights in the cluster as a whole; what goes without them are IngressClasses and ports of nodes.
            "disableClusterScopeResources": True,
            "defaultTLSResourcesNamespace": args.place.namespace,
            # The sidecar knows services by their address, not by those of their pods, and balances better.
            "nativeLBByDefault": args.mesh,
        },
    }
    return configuration


def file_configuration(args: GatewayArgs) -> dict[str, Any]:
    """The services `streams` and `fallback` of traefik/dynamic where the environment has them, and who asks the latter.

    A file: a route may name no Service of another namespace, nor may what an entry point goes through. And of a file,
    Traefik drops no service that has no pod.
    """
    services = native("dynamic/services.yml")["http"]["services"]
    fallback = f"http://fallback.{args.apps.namespace}.svc.cluster.local:{FALLBACK_PORT}"
    for name, url in (("streams", args.streams), ("fallback", fallback)):
        services[name]["loadBalancer"]["servers"] = [{"url": url}]
    unavailable = native("dynamic/middlewares.yml")["http"]["middlewares"][UNAVAILABLE]
    if args.mesh:
        # There it is Traefik's own proxy that says, in plain text, that nobody is there; it says 503, as services do.
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
            self._rights(place, child)
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
        # Named `default`, both hold for every route.
        self._resource("TLSStore", "default", {"defaultCertificate": {"secretName": certificate}})
        self._resource("TLSOption", "default", {"minVersion": "VersionTLS12"})

    def _ping(self) -> None:
        """Ready only with its routes: Traefik answers at once, but knows this one no sooner than all others."""
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
                # 10 s of taking requests and 20 s of answering them, as traefik.yml says, and some for the rest.
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
        # Local: nodes pass on the client's address, by which requests are throttled, instead of their own.
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
                    # Anybody, from anywhere: without `from`.
                    {"ports": [{"port": port, "protocol": "TCP"} for port in public]},
                    {
                        "from_": [{"namespace_selector": role_selector(args.place.environment, "monitoring")}],
                        "ports": [{"port": MERGED_METRICS if args.mesh else METRICS, "protocol": "TCP"}],
                    },
                ],
            },
            opts=opts,
        )

    def _rights(self, place: Place, opts: pulumi.ResourceOptions) -> None:
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
        """Where clients reach it, as far as that is known now."""
        args = self._args
        scheme = "https" if args.config.certificate else "http"
        if args.config.service == "NodePort":
            return f"{scheme}://<a node that runs it>:{args.config.node_port}"
        balancer = (status or {}).get("load_balancer") or {}
        for each in balancer.get("ingress") or []:
            return f"{scheme}://{each.get('hostname') or each.get('ip')}"
        return f"not known yet; ask for it: kubectl --namespace {args.place.namespace} get service {NAME}"
