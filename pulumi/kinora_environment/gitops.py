"""Argo CD, which deploys from git, and the root application that creates all others.

This is Argo CD's own single-namespace manifest, adapted. The repository's argocd/ defines what is deployed; its limits
are set here, in projects and roles, where a push cannot change them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random

from kinora_environment import config, upstream
from kinora_environment.place import Place, prefix
from kinora_environment.sizes import Sizes
from kinora_environment.workload import checksum, named, quantities, scraped

Manifest = Mapping[str, Any]

KINDS: Mapping[str, Callable[..., pulumi.Resource]] = {
    "ConfigMap": k8s.core.v1.ConfigMap,
    "Deployment": k8s.apps.v1.Deployment,
    "NetworkPolicy": k8s.networking.v1.NetworkPolicy,
    "Role": k8s.rbac.v1.Role,
    "RoleBinding": k8s.rbac.v1.RoleBinding,
    "Secret": k8s.core.v1.Secret,
    "Service": k8s.core.v1.Service,
    "ServiceAccount": k8s.core.v1.ServiceAccount,
    "StatefulSet": k8s.apps.v1.StatefulSet,
}
"""The kinds in the published manifest."""

# Dex is for SSO: to use it, remove it here, set `dex.config` in argocd-cm, and the permissions in argocd-rbac-cm.
# Alertmanager reports failed deployments. Redis's role was for generating its own password.
LEFT_OUT = re.compile(r"\w+/argocd-(dex-server|notifications)|Role(Binding)?/argocd-redis$")

CASCADE = "resources-finalizer.argocd.argoproj.io/foreground"
"""With this finalizer, an application is deleted after all its objects."""
IN_CLUSTER = "https://kubernetes.default.svc"
CONTROLLER, SERVER = "argocd-application-controller", "argocd-server"
METRICS_PORT = 8082
"""Of the controller, which reports each application's status (observability/rules/argocd.yml)."""


@dataclass(frozen=True)
class Layer:
    """What the applications of one project may contain: these kinds, in the namespaces of these roles."""

    purpose: str
    roles: Sequence[str]
    kinds: Mapping[str, Sequence[str]]
    """By group. Never Secrets, roles or volumes: those belong to Pulumi, and so do the stores."""


LAYERS: Mapping[str, Layer] = {
    "services": Layer(
        "The services: charts/service for each app.",
        ["apps"],
        {
            "": ["Pod", "Service", "ServiceAccount"],
            "apps": ["Deployment"],
            "autoscaling": ["HorizontalPodAutoscaler"],
            "batch": ["Job"],
            "keda.sh": ["ScaledObject"],
            "monitoring.coreos.com": ["ServiceMonitor"],
            "networking.k8s.io": ["NetworkPolicy"],
            "policy": ["PodDisruptionBudget"],
            "security.istio.io": ["AuthorizationPolicy"],
            "traefik.io": ["IngressRoute"],
        },
    ),
    "gateway": Layer(
        "Shared by all routes: charts/gateway.",
        ["apps"],
        {"traefik.io": ["IngressRoute", "Middleware", "ServersTransport"]},
    ),
    "mesh": Layer(
        "The mesh's policies and timeouts: istio/.",
        ["apps", "gateway"],
        {
            "networking.istio.io": ["DestinationRule", "ServiceEntry", "Sidecar", "VirtualService"],
            "security.istio.io": ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"],
        },
    ),
}
"""One project each. A test compares them with the rendered charts."""

ROOT: Mapping[str, Sequence[str]] = {"argoproj.io": ["Application", "ApplicationSet"]}
"""What the root application may contain. Not projects, or a push could add one."""

# Derived objects, displayed in the UI.
WATCHED = (("", "events", "pods"), ("apps", "controllerrevisions", "replicasets"))
READ, WRITE = ["get", "list", "watch"], ["create", "delete", "patch", "update"]


def resources(*kinds: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Group and names of the resources of some kinds."""
    named: dict[str, set[str]] = {}
    for given in kinds:
        for group, names in given.items():
            named.setdefault(group, set()).update(re.sub("y$", "ie", name.lower()) + "s" for name in names)
    return [(group, *sorted(names)) for group, names in sorted(named.items())]


def rules(resources: Sequence[Sequence[str]], verbs: Sequence[str]) -> list[dict[str, Any]]:
    return [{"api_groups": [group], "resources": names, "verbs": list(verbs)} for group, *names in resources]


def settings(environment: str) -> Mapping[str, Mapping[str, str]]:
    """Our additions to the ConfigMaps of the published manifest."""
    return {
        "argocd-cm": {
            "admin.enabled": "true",
            "users.anonymous.enabled": "false",
            "exec.enabled": "false",
            "application.resourceTrackingMethod": "annotation",
            # Marks its objects, so that other environments' Argo CD in the same cluster ignores them.
            "installationID": prefix(environment),
            # Watch only what its roles allow, and ignore the rest.
            "resource.respectRBAC": "normal",
            # The poll interval for git; no webhook is needed.
            "timeout.reconciliation": "15s",
            "timeout.reconciliation.jitter": "0s",
        },
        "argocd-cmd-params-cm": {
            "server.insecure": "false",
            # Server-side diff, so that the API server's defaults are no difference.
            "controller.diff.server.side": "true",
            "reposerver.enable.git.submodule": "false",
            # For this long, a rendering error counts as an outage of git. Invalid values should be reported soon.
            # With a unit, despite its name: Argo CD ignores a plain number and uses three minutes.
            "controller.repo.error.grace.period.seconds": "30s",
            # Ends a sync that waits for ever, and retries with the newest commit. Longer than the deadline of a
            # migration (charts/service).
            "controller.sync.timeout.seconds": "900",
            # No push deletes an application, however a folder or a generator changes: that is a second, explicit step
            # (docs/deploys.md).
            "applicationsetcontroller.policy": "create-update",
        },
        # Users have no permissions by default; admin has all.
        "argocd-rbac-cm": {"policy.default": ""},
    }


@dataclass(frozen=True)
class GitOpsArgs:
    place: Place
    destinations: Sequence[Place]
    """The namespaces of the layers, where applications may create objects."""
    facts: Mapping[str, Any]
    """The environment's facts for the charts (`environment` of charts/service/values.yaml)."""
    external: Mapping[str, Any]
    """External stores (`external` of istio/values.yaml)."""
    after: pulumi.Input[Sequence[pulumi.Resource]] | None
    """The mesh: nothing is deployed before it is ready, because services would start without sidecars."""
    config: config.Repository
    sizes: Sizes
    images: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, Mapping[str, str]]:
        return settings(self.place.environment)


class GitOps(pulumi.ComponentResource):
    def __init__(self, name: str, args: GitOpsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:GitOps", name, None, opts)
        self._args = args
        child = pulumi.ResourceOptions(parent=self)
        defined = pulumi.ResourceOptions(
            parent=self, depends_on=upstream.custom_resource_definitions("argocd-crds", child)
        )
        # Before the server, which otherwise creates a project `default` without limits.
        closed = self._resource("AppProject", "default", {"sourceRepos": [], "destinations": []}, defined)
        projects = [closed, *self._projects(defined)]
        self._redis_password(child)
        parts = [
            self._cluster(pulumi.ResourceOptions(parent=self, depends_on=args.after)),
            *self._repository(child),
            *(resource for place in (args.place, *args.destinations) for resource in self._rbac(place, child)),
            *self._published(pulumi.ResourceOptions(parent=self, depends_on=projects)),
        ]
        # Deleted first: Argo CD must be running until the root and all its applications are gone.
        self._root(pulumi.ResourceOptions(parent=self, depends_on=parts))
        namespace = args.place.namespace
        self.console = (
            f"https://localhost:8443 (as admin), while this runs:"
            f" kubectl --namespace {namespace} port-forward service/{SERVER} 8443:443"
        )
        self.next_step = (
            f"push to {args.config.url}, branch {args.config.revision}: Argo CD deploys what argocd/ there defines."
            f" The password of its admin: kubectl --namespace {namespace} get secret argocd-initial-admin-secret"
            f" --output jsonpath='{{.data.password}}' | base64 --decode"
        )
        self.register_outputs({"console": self.console, "next_step": self.next_step})

    @property
    def _layers(self) -> Mapping[str, Layer]:
        """This environment's layers: without the mesh's if there is no mesh."""
        return {name: layer for name, layer in LAYERS.items() if name != "mesh" or self._args.facts["mesh"]}

    def _metadata(self, name: str, **labels: str) -> dict[str, Any]:
        place = self._args.place
        return {"name": name, "namespace": place.created, "labels": {**place.labels("argocd"), **labels}}

    # --- Argo CD itself ----------------------------------------------------------------------------------------------

    def _published(self, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
        return [
            self._customise(manifest, opts)
            for manifest in upstream.manifests("argocd")
            if not LEFT_OUT.match(f"{manifest['kind']}/{manifest['metadata']['name']}")
        ]

    def _customise(self, manifest: Manifest, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Register an object of the published manifest, with our changes."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        given = {key: manifest[key] for key in manifest.keys() - {"apiVersion", "kind", "metadata", "roleRef"}}
        match kind:
            case "ConfigMap":
                given["data"] = {**given.get("data", {}), **self._args.settings.get(name, {})}
            case "ServiceAccount":
                given["automount_service_account_token"] = False
            case "RoleBinding":
                given["role_ref"] = manifest["roleRef"]
            case "Deployment" | "StatefulSet":
                given["spec"] = self._workload(name, given["spec"])
        # Argo CD finds its own settings by the label part-of, so keep its labels.
        ours = {"app.kubernetes.io/managed-by": "pulumi", "kinora.io/environment": self._args.place.environment}
        metadata = {"name": name, "namespace": self._args.place.created}
        return KINDS[kind](
            name, metadata={**metadata, "labels": {**manifest["metadata"]["labels"], **ours}}, **given, opts=opts
        )

    def _workload(self, name: str, spec: Manifest) -> dict[str, Any]:
        template = spec["template"]
        pod = template["spec"]
        # Redis's init container generates a password; we provide ours instead.
        before = [self._container(each) for each in pod.get("initContainers", []) if each["name"] != "secret-init"]
        # Most settings are only read at start-up.
        restart = {"checksum/configuration": checksum(json.dumps(self._args.settings))}
        watched = scraped(METRICS_PORT) if name == CONTROLLER else {}
        return {
            **spec,
            # One replica each: deployed services keep running without Argo CD.
            "replicas": 1,
            # The published one does not exist here.
            **({"serviceName": "argocd-metrics"} if "serviceName" in spec else {}),
            "template": {
                "metadata": {**template["metadata"], "annotations": {**restart, **watched}},
                "spec": {
                    **{key: value for key, value in pod.items() if key != "initContainers"},
                    **({"initContainers": before} if before else {}),
                    "containers": [self._container(each) for each in pod["containers"]],
                    "automountServiceAccountToken": name not in ("argocd-redis", "argocd-repo-server"),
                },
            },
        }

    def _container(self, container: Manifest) -> dict[str, Any]:
        image = self._args.images["redis" if container["name"] == "redis" else "argocd"]
        resources = quantities(self._args.sizes.argocd)
        return {**container, "image": image, "imagePullPolicy": "IfNotPresent", "resources": resources}

    def _redis_password(self, opts: pulumi.ResourceOptions) -> None:
        password = pulumi_random.RandomPassword("argocd-redis", length=40, special=False, opts=opts)
        k8s.core.v1.Secret(
            "argocd-redis-password",
            metadata=self._metadata("argocd-redis"),
            string_data=pulumi.Output.secret({"auth": password.result}),
            opts=opts,
        )

    def _rbac(self, place: Place, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
        """Argo CD's permissions in a namespace. The server only reads, because changes are made in git.

        The controller must be able to list the same kinds in each namespace: if it cannot list one of them in a
        namespace, it treats the kind as nonexistent. In its own it only lists; the published role covers its writes
        there.
        """
        layers = self._layers.values()
        all_of_them = resources(*(layer.kinds for layer in layers), ROOT)
        here = resources(*(layer.kinds for layer in layers if place.role in layer.roles))
        controller = [*rules([*all_of_them, *WATCHED], READ), *rules(here, WRITE)]
        reader = [
            *rules([*all_of_them, *WATCHED], ["get"]),
            *rules([("", "pods/log")], ["get"]),
            *rules([("", "events")], ["list"]),
        ]
        registered: list[pulumi.Resource] = []
        for account, granted in ((CONTROLLER, controller), (SERVER, reader)):
            name = f"{account}-deployed"
            metadata = {"name": name, "namespace": place.created, "labels": place.labels("argocd")}
            role = k8s.rbac.v1.Role(f"{name}-{place.role}", metadata=metadata, rules=granted, opts=opts)
            binding = k8s.rbac.v1.RoleBinding(
                f"{name}-{place.role}",
                metadata=metadata,
                role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": named(role)},
                subjects=[{"kind": "ServiceAccount", "name": account, "namespace": self._args.place.created}],
                opts=opts,
            )
            registered += [role, binding]
        return registered

    # --- what it deploys ---------------------------------------------------------------------------------------------

    def _cluster(self, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """The cluster Secret of this environment: only its own namespaces, no cluster-scoped objects.

        The application sets fill their templates from its annotations, so argocd/ is the same for all environments.
        """
        given, facts = self._args.config, self._args.facts
        places = [self._args.place, *self._args.destinations]
        metadata = self._metadata("cluster", **{"argocd.argoproj.io/secret-type": "cluster"})
        metadata["labels"]["kinora.io/mesh"] = str(facts["mesh"]).lower()  # the selector of argocd/mesh.yaml
        metadata["annotations"] = {
            "kinora.io/facts": json.dumps(facts),
            "kinora.io/external": json.dumps(self._args.external),
            "kinora.io/repository": given.url,
            "kinora.io/revision": given.revision,
        }
        cluster: pulumi.Resource = k8s.core.v1.Secret(
            "argocd-cluster",
            metadata=metadata,
            string_data={
                "name": "in-cluster",
                "server": IN_CLUSTER,
                "namespaces": ",".join(place.namespace for place in places),
                "clusterResources": "false",
                "config": json.dumps({"tlsClientConfig": {"insecure": False}}),
            },
            opts=opts,
        )
        return cluster

    def _repository(self, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
        given = self._args.config
        if given.username is None or given.password is None:
            return []
        credentials = {
            "type": "git",
            "url": given.url,
            "username": given.username,
            "password": given.password.get_secret_value(),
        }
        secret = k8s.core.v1.Secret(
            "argocd-repository",
            metadata=self._metadata("repository", **{"argocd.argoproj.io/secret-type": "repository"}),
            string_data=pulumi.Output.secret(credentials),
            opts=opts,
        )
        return [secret]

    def _resource(
        self, kind: str, name: str, spec: Manifest, opts: pulumi.ResourceOptions, finalizers: Sequence[str] = ()
    ) -> pulumi.Resource:
        resource: pulumi.Resource = k8s.apiextensions.CustomResource(
            f"argocd-{kind.lower()}-{name}",
            api_version="argoproj.io/v1alpha1",
            kind=kind,
            metadata={**self._metadata(name), **({"finalizers": list(finalizers)} if finalizers else {})},
            spec=spec,
            opts=opts,
        )
        return resource

    def _projects(self, opts: pulumi.ResourceOptions) -> Iterator[pulumi.Resource]:
        own = [self._args.place.namespace]
        yield self._project("root", "Creates all other applications, and deploys nothing else.", own, ROOT, opts)
        for name, layer in self._layers.items():
            namespaces = [place.namespace for place in self._args.destinations if place.role in layer.roles]
            yield self._project(name, layer.purpose, namespaces, layer.kinds, opts)

    def _project(
        self,
        name: str,
        purpose: str,
        namespaces: Sequence[str],
        kinds: Mapping[str, Sequence[str]],
        opts: pulumi.ResourceOptions,
    ) -> pulumi.Resource:
        spec = {
            "description": purpose,
            "sourceRepos": [self._args.config.url],
            "destinations": [{"server": IN_CLUSTER, "namespace": namespace} for namespace in namespaces],
            "namespaceResourceWhitelist": [
                {"group": group, "kind": kind} for group, names in kinds.items() for kind in names
            ],
        }
        return self._resource("AppProject", name, spec, opts)

    def _root(self, opts: pulumi.ResourceOptions) -> None:
        given = self._args.config
        spec = {
            "project": "root",
            "source": {
                "repoURL": given.url,
                "targetRevision": given.revision,
                "path": "argocd",
                "directory": {"recurse": True},
            },
            "destination": {"server": IN_CLUSTER, "namespace": self._args.place.namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ServerSideApply=true"],
                # Unlimited retries, each with the newest commit, as in argocd/.
                "retry": {
                    "limit": -1,
                    "refresh": True,
                    "backoff": {"duration": "5s", "factor": 2, "maxDuration": "15s"},
                },
            },
        }
        self._resource("Application", "root", spec, opts, finalizers=[CASCADE])
