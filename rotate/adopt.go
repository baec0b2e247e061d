package rotate

import (
	"regexp"
	"time"
)

// policyName is what names of snapshots and overlays may begin with.
var policyName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// IsPolicyName tells whether a policy may have that name.
func IsPolicyName(name string) bool { return policyName.MatchString(name) }

// Adopted is the name and the description of a snapshot that another system took at that
// time and that rotation is to treat as its own: retention counts it, and drops it in
// its turn. Free tells whether a name is not in use.
func Adopted(policy string, taken time.Time, free func(name string) bool) (name, description string) {
	return snapshotName(policy, taken, free), mark(policy)
}
