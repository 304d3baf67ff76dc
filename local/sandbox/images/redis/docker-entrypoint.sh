#!/bin/sh
# Options alone are the server's: Argo CD gives nothing else.
set -eu
case "${1:-}" in
-*) set -- redis-server "$@" ;;
esac
exec "$@"
