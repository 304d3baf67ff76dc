# Shared by the makefiles that build images: buildah's storage, the base image, and the build command.
# No daemon or registry is needed; everything is built from Debian packages and from this repository.

CONTAINERS := $(MADE)/containers
BUILDAH := buildah --root $(abspath $(CONTAINERS)/storage) --runroot $(abspath $(CONTAINERS)/run) --storage-driver overlay

# Images are not files, so make tracks each one by a stamp file in this folder.
BUILT := $(CONTAINERS)/built

BASE := docker.io/library/debian:trixie-slim
# Like the published image of that name: no manuals or translations except licences, no cached packages, and installing
# a package starts no service (with RUN as a chroot, it would run on this machine).
SLIM := usr/share/doc usr/share/info usr/share/locale usr/share/man
ROOT = $(BUILD)/base/root
# Order-only prerequisite: packages are installed first, but do not make an image out of date.
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

# $(call build-image,reference,folder with the Dockerfile,more arguments) builds the target.
build-image = $(BUILDAH) build --isolation chroot --layers --pull=never --tag $(1) $(3) $(2) && touch $@

# The URLs of this machine's package index may contain a password, so they are mounted as a secret and never end up in a
# layer: an image that needs pip is built with $(pip-secrets), after $(write-pip-conf).
# Debian's python3 may lack pip; the platform's environment has it.
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
