package policy

import _ "embed"

//go:embed first.toml
var first string

// First is a short policy file with comments, for `virt-rotate policy init`
// to write.
func First() []byte { return []byte(first) }
