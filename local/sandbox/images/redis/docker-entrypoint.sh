#!/bin/sh
# Options without a command are for the server: Argo CD passes only options.
set -eu
case "${1:-}" in
-*) set -- redis-server "$@" ;;
esac
exec "$@"
