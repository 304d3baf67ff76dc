"""An identity's permissions in each store, in the store's own format. Plain functions, shared by every environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# INFO is in @dangerous, but clients and their health checks use it.
REDIS_COMMANDS = "+@all -@admin -@dangerous +info"


def redis_rules(identity: str, *, reads: Iterable[str] = ()) -> str:
    """The rules of an ACL user: its own key prefix, and other keys that it may read."""
    others = "".join(f" %R~{pattern}" for pattern in reads)
    return f"~{identity}:* &{identity}:*{others} {REDIS_COMMANDS}"


def rabbitmq_permissions(identity: str, *, consumes: bool, published: Iterable[str]) -> dict[str, str]:
    """Regular expressions for what a user may configure, write to and read from in its virtual host.

    ``published``: the exchanges of all identities, to which every identity may bind its queues. It may also bind the
    queues of others that receive its events, which are called ``<consumer>.<identity>``.
    """
    own = rf"^{identity}$|^{identity}\."
    write = rf"{own}|^[a-z0-9]+\.{identity}$"
    if consumes:  # publishing to amq.default reaches any queue directly, whoever owns it
        write += r"|^amq\.default$"
    exchanges = "|".join(re.escape(each) for each in sorted(published))
    return {"configure": own, "write": write, "read": rf"{own}|^({exchanges})$" if exchanges else own}


RABBITMQ_LIMITS = {"max-connections": 200, "max-channels": 2000}
"""Per user: enough for all replicas of a service during a rolling update."""


def s3_policy(buckets: Sequence[str]) -> dict[str, Any]:
    """Full access to objects (including abandoned multipart uploads), none to the buckets themselves."""
    on_bucket = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    on_object = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    on_object += ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": on_bucket, "Resource": [f"arn:aws:s3:::{name}" for name in buckets]},
            {"Effect": "Allow", "Action": on_object, "Resource": [f"arn:aws:s3:::{name}/*" for name in buckets]},
        ],
    }


def postgres_sql(logins: Mapping[str, str], *, extensions: Mapping[str, Sequence[str]]) -> str:
    """The psql script that creates databases and roles; idempotent.

    ``logins``: login role -> the role that it acts as, which owns the database of the same name. The password of a
    login is taken from the variable ``PASSWORD_<LOGIN>``. A login that is no longer listed is dropped: it owns
    nothing, because every connection assumes the owner's role (``role`` in its URL).
    """
    lines = [r"\set ON_ERROR_STOP on", "REVOKE ALL ON DATABASE postgres, template1 FROM public;"]
    for owner in sorted(set(logins.values())):
        lines += [
            f"SELECT 'CREATE ROLE {owner} NOLOGIN'"
            rf" WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{owner}') \gexec",
            f"SELECT 'CREATE DATABASE {owner} OWNER {owner}'"
            rf" WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{owner}') \gexec",
            f"REVOKE ALL ON DATABASE {owner} FROM public;",
        ]
    for login, owner in sorted(logins.items()):
        lines += [
            # Unset first: if the variable is missing, psql would keep the previous login's password.
            r"\unset password",
            rf"\getenv password PASSWORD_{login.upper()}",
            rf"SELECT 'CREATE ROLE {login}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{login}') \gexec",
            f"ALTER ROLE {login} LOGIN NOINHERIT PASSWORD :'password';",
            f"GRANT {owner} TO {login};",
            f"GRANT CONNECT ON DATABASE {owner} TO {login};",
        ]
    lines += [
        "SELECT format('REVOKE ALL ON DATABASE %I FROM %I; DROP ROLE %I', owner, login, login) FROM ("
        "SELECT m.rolname AS login, o.rolname AS owner FROM pg_auth_members"
        " JOIN pg_roles o ON o.oid = roleid JOIN pg_roles m ON m.oid = member"
        " WHERE m.rolname ~ ('^' || o.rolname || '_[0-9]+$')"
        rf" AND m.rolname <> ALL ('{{{','.join(sorted(logins))}}}')) retired \gexec",
    ]
    for owner, names in sorted(extensions.items()):
        lines += [rf"\connect {owner}", *(f"CREATE EXTENSION IF NOT EXISTS {name};" for name in names)]
    return "\n".join(lines) + "\n"


def mongo_script(logins: Mapping[str, str]) -> str:
    """The mongosh script that creates the users; idempotent.

    ``logins``: user -> the database that it may read and write. Passwords as with PostgreSQL. It authenticates as
    $ROOT_USER by itself, because command-line arguments are visible to every user of the machine.
    """
    lines = [
        "const admin = db.getSiblingDB('admin');",
        "admin.auth(process.env.ROOT_USER, process.env.ROOT_PASSWORD);",
    ]
    for login, database in sorted(logins.items()):
        user = f"pwd: process.env.PASSWORD_{login.upper()}, roles: [{{role: 'readWrite', db: '{database}'}}]"
        lines += [
            f"if (admin.getUser('{login}')) admin.updateUser('{login}', {{{user}}});",
            f"else admin.createUser({{user: '{login}', {user}}});",
        ]
    lines += [
        f"const known = {sorted(logins)};",
        "for (let {user} of admin.getUsers().users)",
        "  if (/_[0-9]+$/.test(user) && !known.includes(user)) admin.dropUser(user);",
    ]
    return "\n".join(lines) + "\n"


def s3_script(logins: Mapping[str, Sequence[str]]) -> str:
    """The shell script that creates buckets, policies and users with MinIO's client and little else; idempotent.

    ``logins``: access key -> the buckets that it may use. Policies are read from $POLICIES/<key>.json. Passwords as
    with PostgreSQL.
    """
    lines = [
        "set -eu",
        "tries=0",
        # Through a pipe: arguments are visible in process lists.
        'until printf "%s\\n" "$ROOT_USER" "$ROOT_PASSWORD" | mc alias set store "$S3_URL"; do',
        "  tries=$((tries + 1))",
        '  [ "$tries" -lt 30 ]',
        "  sleep 2",
        "done",
    ]
    for bucket in sorted({bucket for buckets in logins.values() for bucket in buckets}):
        lines.append(f"mc mb --ignore-existing store/{bucket}")
    for login in sorted(logins):
        lines += [
            f'mc admin policy create store {login} "$POLICIES/{login}.json"',
            f'printf "%s\\n" {login} "$PASSWORD_{login.upper()}" | mc admin user add store',
            f"mc admin policy attach store {login} --user {login}",
        ]
    known = "|".join(sorted(logins))
    lines += [
        "users=$(mc admin user list store)",
        # Each line: status, access key, policy. A key that ends in a number and is no longer listed was retired.
        "printf '%s\\n' \"$users\" | while read -r _ user _; do",
        '  case "$user" in',
        f"  {known}) continue ;;",
        "  esac",
        '  case "${user##*_}" in',
        "  '' | *[!0-9]*) continue ;;",
        "  esac",
        '  mc admin user remove store "$user" </dev/null',
        '  mc admin policy remove store "$user" </dev/null',
        "done",
    ]
    return "\n".join(lines) + "\n"
