"""The policies of kinora_environment/policies.py as a policy pack: `pulumi up --policy-pack policy`."""

import sys
from pathlib import Path

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kinora_environment.policies import EXEMPT, POLICIES, Policy


def wrap(name: str, policy: Policy) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if not args.resource_type.startswith("kubernetes:") or "kind" not in args.props:
            return
        shown = f"{args.props['kind']}/{args.props.get('metadata', {}).get('name', args.name)}"
        if (name, shown) not in EXEMPT:
            for sentence in policy(args.props):
                report(f"{shown} {sentence}", None)

    return ResourceValidationPolicy(name=name.replace("_", "-"), description=policy.__doc__ or "", validate=validate)


PolicyPack(
    name="kinora",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[wrap(name, policy) for name, policy in POLICIES.items()],
)
