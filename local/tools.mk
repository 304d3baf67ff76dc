# Builds the cluster tools, pinned, into .kinora/bin, and copies files that upstream publishes only inside a Go module
# into .kinora/upstream: `make tools`. Idempotent.

VERB := tools
# Needed by the sandbox only.
PACKAGES_FOR := cluster
STEPS = $(COPIES) python-pulumi $(TOOLS) $(CLI) $(NEEDED_PACKAGES) $(SANDBOX)
include local/steps.mk

# Versions are set in each go.mod only.
KUBERNETES := $(call version,kubernetes,k8s.io/kubernetes)
ARGO_CD := argo-cd-$(call version,argo-cd,github.com/argoproj/argo-cd/v3)
KEDA := keda-$(call version,keda,github.com/kedacore/keda/v2)
PULUMI := $(call version,pulumi,github.com/pulumi/pulumi/pkg/v3)

TOOLS := compose-config etcd kubectl helm mc kube-apiserver istioctl
# For a real `pulumi up`. Takes 15 min to build, so only on request: `make pulumi`.
CLI := pulumi pulumi-resource-kubernetes
# For the sandbox's node: `make --file=local/tools.mk sandbox`.
SANDBOX := kube-controller-manager kube-scheduler kubelet kube-proxy kube-router coredns argocd prometheus-kubernetes
COPIES := istio $(ARGO_CD) $(KEDA)

all: $(MADE)/pulumi/installed $(COPIES:%=$(MADE)/upstream/%) $(TOOLS:%=$(BIN)/%)
# The Python environment of pulumi/ alone, which needs no Go.
python: $(MADE)/pulumi/installed
cli: $(CLI:%=$(BIN)/%) $(BIN)/kube-controller-manager
sandbox: $(NEEDED_PACKAGES) $(SANDBOX:%=$(BIN)/%)
.PHONY: all cli python sandbox

$(MADE)/pulumi/installed: pulumi/requirements.txt
	$(call step,python-pulumi,installing the Python environment of pulumi/ (about 30 s),\
	    $(PYTHON) -m venv $(MADE)/pulumi && \
	    $(MADE)/pulumi/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes --requirement $< && \
	    touch $@)

CHARTS = $$from/manifests/charts
$(MADE)/upstream/istio: local/go/istioctl/go.mod local/go/istioctl/go.sum
	$(call step,istio,copying the charts of Istio,$(call copy-module,istioctl,istio.io/istio,\
	    cp -r $(CHARTS)/base $$to/base && \
	    cp -r $(CHARTS)/istio-control/istio-discovery $$to/istiod && \
	    cp -r $(CHARTS)/istio-cni $$to/cni))

$(MADE)/upstream/$(ARGO_CD): local/go/argo-cd/go.mod local/go/argo-cd/go.sum
	$(call step,$(ARGO_CD),copying the manifests of Argo CD,$(call copy-module,argo-cd,github.com/argoproj/argo-cd/v3,\
	    cp -r $$from/manifests/namespace-install.yaml $$from/manifests/crds $$from/entrypoint.sh \
	        $$from/hack/gpg-wrapper.sh $$from/hack/git-verify-wrapper.sh $$to))

$(MADE)/upstream/$(KEDA): local/go/keda/go.mod local/go/keda/go.sum
	$(call step,$(KEDA),copying the definitions of KEDA,$(call copy-module,keda,github.com/kedacore/keda/v2,\
	    cp -r $$from/config/crd/bases/. $$to))

$(BIN)/compose-config: $(addprefix local/go/compose-config/,main.go go.mod go.sum)
	$(call step,compose-config,building the reader of docker-compose.yml (about 20 s),\
	    $(call build-go,local/go/compose-config,.,))

$(BIN)/etcd: local/go/etcd/go.mod local/go/etcd/go.sum
	$(call step,etcd,building etcd (about 30 s),$(call build-go,local/go/etcd,go.etcd.io/etcd/server/v3,))

$(BIN)/helm: local/go/helm/go.mod local/go/helm/go.sum
	$(call step,helm,building Helm (about 90 s),$(call build-go,local/go/helm,helm.sh/helm/v3/cmd/helm,\
	    -X helm.sh/helm/v3/internal/version.version=v$(call version,helm,helm.sh/helm/v3)))

# MinIO's client, in the version that its server is tested with.
$(BIN)/mc: local/go/minio/go.mod local/go/minio/go.sum
	$(call step,mc,building the client of MinIO (about 60 s),$(call build-go,local/go/minio,github.com/minio/mc,))

KUBERNETES_PROGRAMS := kubectl kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy
$(KUBERNETES_PROGRAMS:%=$(BIN)/%): $(BIN)/%: local/go/kubernetes/go.mod local/go/kubernetes/go.sum
	$(call step,$*,building $* $(KUBERNETES) (up to 7 min),\
	    $(call build-go,local/go/kubernetes,k8s.io/kubernetes/cmd/$*,\
	        -X k8s.io/component-base/version.gitVersion=v$(KUBERNETES)))

$(BIN)/istioctl: local/go/istioctl/go.mod local/go/istioctl/go.sum
	$(call step,istioctl,building istioctl (about 5 min),\
	    $(call build-go,local/go/istioctl,istio.io/istio/istioctl/cmd/istioctl,))

$(BIN)/pulumi: local/go/pulumi/go.mod local/go/pulumi/go.sum
	$(call step,pulumi,building Pulumi $(PULUMI) (about 5 min),\
	    $(call build-go,local/go/pulumi,github.com/pulumi/pulumi/pkg/v3/cmd/pulumi,\
	        -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v$(PULUMI)))

PROVIDER := github.com/pulumi/pulumi-kubernetes/provider/v4
$(BIN)/pulumi-resource-kubernetes: $(addprefix local/go/pulumi-kubernetes/,main.go go.mod go.sum)
	$(call step,$(@F),building the Kubernetes provider of Pulumi (about 8 min),\
	    $(call find-module,pulumi-kubernetes,$(PROVIDER)) && \
	    rm -rf $(BUILD)/pulumi-kubernetes && cp -r local/go/pulumi-kubernetes $(BUILD) && \
	    cp $$from/cmd/pulumi-resource-kubernetes/schema.json $(BUILD)/pulumi-kubernetes && \
	    $(call build-go,$(BUILD)/pulumi-kubernetes,.,\
	        -X $(PROVIDER)/pkg/version.Version=$(call version,pulumi-kubernetes,$(PROVIDER))))

# One binary: the name that it is called by selects repo server, application controller etc. Without the web UI, which
# upstream builds separately.
ARGO_CD_MODULE := github.com/argoproj/argo-cd/v3
$(BIN)/argocd: local/go/argo-cd/go.mod local/go/argo-cd/go.sum
	$(call step,argocd,building Argo CD (about 4 min),$(call build-go,local/go/argo-cd,$(ARGO_CD_MODULE)/cmd,\
	    -X $(ARGO_CD_MODULE)/common.version=$(call version,argo-cd,$(ARGO_CD_MODULE))))

$(BIN)/kube-router: local/go/kube-router/go.mod local/go/kube-router/go.sum
	$(call step,kube-router,building kube-router (about 60 s),\
	    $(call build-go,local/go/kube-router,github.com/cloudnativelabs/kube-router/v2/cmd/kube-router,))

$(BIN)/coredns: local/go/coredns/go.mod local/go/coredns/go.sum
	$(call step,coredns,building CoreDNS (about 2 min),$(call build-go,local/go/coredns,github.com/coredns/coredns,))

# Debian's Prometheus lacks Kubernetes service discovery. 0.308 is the library version of 3.8.
$(BIN)/prometheus-kubernetes: local/go/prometheus/go.mod local/go/prometheus/go.sum
	$(call step,prometheus-kubernetes,building Prometheus (about 4 min),\
	    $(call build-go,local/go/prometheus,github.com/prometheus/prometheus/cmd/prometheus,\
	        -X github.com/prometheus/common/version.Version=$(call version,prometheus,github.com/prometheus/prometheus)))
