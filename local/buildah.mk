# What the makefiles that build images share: where buildah keeps them, the base that they have, and how one is built.
# Neither a daemon nor a registry is needed; all of it is made from Debian's packages and from this repository.

CONTAINERS := $(MADE)/containers
BUILDAH := buildah --root $(abspath $(CONTAINERS)/storage) --runroot $(abspath $(CONTAINERS)/run) --storage-driver overlay

# As an image is no file, a file with its name in this folder says that it was built after all that it is made from.
BUILT := $(CONTAINERS)/built

BASE := docker.io/library/debian:trixie-slim
# Like the published image of that name: of manuals and translations only licences, no packages kept after they were
# installed, and installing one starts nothing (with RUN as a chroot, that would run on this machine).
SLIM := usr/share/doc usr/share/info usr/share/locale usr/share/man
ROOT = $(BUILD)/base/root
# Order only: the packages come first, and no image is older than they are.
$(BUILT)/base: local/buildah.mk | $(NEEDED_PACKAGES)
	$(call step,base,making the base of all images from Debian 13 (about 30 s),\
	    rm -rf $(BUILD)/base && mkdir -p $(BUILD)/base $(@D) && \
	    debootstrap --variant=minbase trixie $(ROOT) && \
	    find $(SLIM:%=$(ROOT)/%) ! -type d ! -name copyright -delete && \
	    printf 'path-exclude=/%s/*\n' $(SLIM) >$(ROOT)/etc/dpkg/dpkg.cfg.d/slim && \
	    echo 'path-include=/usr/share/doc/*/copyright' >>$(ROOT)/etc/dpkg/dpkg.cfg.d/slim && \
	    echo 'APT::Keep-Downloaded-Packages "false";' >$(ROOT)/etc/apt/apt.conf.d/slim && \
	    printf 'deb http://%s main\n' 'deb.debian.org/debian trixie' 'deb.debian.org/debian trixie-updates' \
	        'security.debian.org/debian-security trixie-security' >$(ROOT)/etc/apt/sources.list && \
	    printf '#!/bin/sh\nexit 101\n' >$(ROOT)/usr/sbin/policy-rc.d && chmod +x $(ROOT)/usr/sbin/policy-rc.d && \
	    tar --create --directory $(ROOT) --file $(BUILD)/base/root.tar --exclude='./dev/*' \
	        $(patsubst %,--exclude='./%',etc/hostname etc/resolv.conf var/cache/apt/* var/lib/apt/lists/* var/log/*) . && \
	    printf 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n' >$(BUILD)/base/Dockerfile && \
	    $(BUILDAH) build --tag $(BASE) $(BUILD)/base && \
	    rm -rf $(BUILD)/base && touch $@)

# $(call build-image,reference,folder with the Dockerfile,more arguments) makes the target.
build-image = $(BUILDAH) build --isolation chroot --layers --pull=never --tag $(1) $(3) $(2) && touch $@

# The addresses of this machine's package index may hold a password, so they are mounted as a secret and in no layer: an
# image that needs pip is built with $(pip-secrets), after $(write-pip-conf).
# Debian's python3 may have no pip; the platform's environment does.
PIP := $(firstword $(wildcard $(MADE)/venv/bin/python) $(PYTHON)) -m pip
PIP_CONF := $(CONTAINERS)/pip.conf
CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
define write-pip-conf
(umask 077 && rm -f $(PIP_CONF) && { echo '[global]' && \
    $(PIP) config list | sed -nE "s/^[^=]*\.(index-url|extra-index-url|trusted-host)='(.*)'$$/\1 = \2/p" | \
        awk '!seen[$$1]++' && \
    $(if $(CERTIFICATES),echo 'cert = /run/secrets/certificates',true); } >$(PIP_CONF))
endef
, := ,
pip-secrets = --secret id=pip.conf$(,)src=$(PIP_CONF) \
    $(if $(CERTIFICATES),--secret id=certificates$(,)src=$(CERTIFICATES))
