# Builds the tools for work on clusters, pinned, into .kinora/bin, and copies what upstream publishes nowhere but inside
# a Go module into .kinora/upstream: `make tools`. Nothing missing, nothing done.

VERB := tools
STEPS = $(COPIES) $(TOOLS)
include local/steps.mk

KUBERNETES := $(call version,kubernetes,k8s.io/kubernetes)
ARGO_CD := argo-cd-$(call version,argo-cd,github.com/argoproj/argo-cd/v3)

# One more of Kubernetes (kubelet, kube-proxy, kube-scheduler, kube-controller-manager) is one more word here.
TOOLS := etcd kubectl helm kube-apiserver istioctl
COPIES := istio $(ARGO_CD)

all: $(COPIES:%=$(MADE)/upstream/%) $(TOOLS:%=$(BIN)/%)
.PHONY: all

CHARTS = $$from/manifests/charts
$(MADE)/upstream/istio: local/go/istioctl/go.mod local/go/istioctl/go.sum
	$(call step,istio,copying the charts of Istio,$(call copy-module,istioctl,istio.io/istio,\
	    cp -r $(CHARTS)/base $$to/base && \
	    cp -r $(CHARTS)/istio-control/istio-discovery $$to/istiod && \
	    cp -r $(CHARTS)/istio-cni $$to/cni))

$(MADE)/upstream/$(ARGO_CD): local/go/argo-cd/go.mod local/go/argo-cd/go.sum
	$(call step,$(ARGO_CD),copying the manifests of Argo CD,$(call copy-module,argo-cd,github.com/argoproj/argo-cd/v3,\
	    cp -r $$from/manifests/namespace-install.yaml $$from/manifests/crds $$to))

$(BIN)/etcd: local/go/etcd/go.mod local/go/etcd/go.sum
	$(call step,etcd,building etcd (about 30 s),$(call build-go,etcd,go.etcd.io/etcd/server/v3))

$(BIN)/helm: local/go/helm/go.mod local/go/helm/go.sum
	$(call step,helm,building Helm (about 90 s),$(call build-go,helm,helm.sh/helm/v3/cmd/helm,\
	    -X helm.sh/helm/v3/internal/version.version=v$(call version,helm,helm.sh/helm/v3)))

$(filter $(BIN)/kube%,$(TOOLS:%=$(BIN)/%)): $(BIN)/%: local/go/kubernetes/go.mod local/go/kubernetes/go.sum
	$(call step,$*,building $* $(KUBERNETES) (up to 7 min),$(call build-go,kubernetes,k8s.io/kubernetes/cmd/$*,\
	    -X k8s.io/component-base/version.gitVersion=v$(KUBERNETES)))

$(BIN)/istioctl: local/go/istioctl/go.mod local/go/istioctl/go.sum
	$(call step,istioctl,building istioctl (about 5 min),$(call build-go,istioctl,istio.io/istio/istioctl/cmd/istioctl))
