// The Kubernetes provider of Pulumi. Upstream's own main embeds files that only its release makes; this one embeds the
// schema from which they are made, which local/tools.mk copies beside it out of the module.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version"
)

//go:embed schema.json
var schema []byte

func main() {
	provider.Serve("kubernetes", version.Version, schema, nil) // nil: only conversion from Terraform asks for more
}
