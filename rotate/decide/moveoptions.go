package decide

import (
	"fmt"
	"slices"
	"strings"
)

// What virsh migrate is told beside the guest and the other host is the user's, but for what would
// break what a migration with its snapshots promises.

// impossible are options of virsh migrate that are refused, with the reason.
func impossible() map[string]string {
	const copies = "the snapshots' layers are found by the other host on the same storage, and would not be copied"
	const other = "what the guest has would be another thing there than what its snapshots have on record"
	return map[string]string{
		"copy-storage-all": copies, "copy-storage-inc": copies, "copy-storage-synchronous-writes": copies,
		"migrate-disks": copies, "migrate-disks-detect-zeroes": copies, "disks-port": copies, "disks-uri": copies,
		"dname": "the snapshots are found again by the guest's name", "xml": other, "persistent-xml": other,
		"offline": "a guest that is off moves so by itself, and one that runs would have two definitions",
		"direct":  "libvirt itself has to see the migration through, should this program end in the middle of it (--p2p)",
		"domain":  "the guest is named before it", "desturi": "the other host is named before it",
		"postcopy-resume": "there is no migration yet that could go on",
	}
}

// always are options that are given in any case.
func always() []string {
	return []string{"live", "persistent", "undefinesource", "p2p"}
}

// plainOptions are those that take no value, after which a word stands for itself.
func plainOptions() []string {
	return []string{"tunnelled", "compressed", "auto-converge", "rdma-pin-all", "abort-on-error", "verbose", "postcopy", "postcopy-after-precopy",
		"tls", "parallel", "zerocopy", "timeout-suspend", "timeout-postcopy", "unsafe", "suspend", "change-protection", "bandwidth-avail-switchover"}
}

// MoveOptions are options for virsh migrate as they are handed on, all by name: the one word that may stand for
// itself is the URI of the migration. What this version does not know, a newer virsh may.
func MoveOptions(args []string) ([]string, error) {
	var out []string
	uri := false
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		switch {
		case !strings.HasPrefix(args[i], "--") && (strings.HasPrefix(args[i], "-") || args[i] == ""):
			return nil, fmt.Errorf("%q: options of virsh migrate are given by their long names", args[i])
		case !strings.HasPrefix(args[i], "--") && uri:
			return nil, fmt.Errorf("%q: one word that is no option can be given, the URI of the migration", args[i])
		case !strings.HasPrefix(args[i], "--"):
			uri = true
			out = append(out, "--migrateuri="+args[i])
			continue
		case impossible()[name] != "":
			return nil, fmt.Errorf("--%s is not possible: %s", name, impossible()[name])
		case name == "change-protection" && value == "off":
			return nil, fmt.Errorf("--change-protection=off is not possible: nobody may change the guest while it moves")
		case slices.Contains(always(), name):
			continue
		}
		if !has && !slices.Contains(plainOptions(), name) && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			has, value = true, args[i]
		}
		if has {
			name += "=" + value
		}
		out = append(out, "--"+name)
	}
	return out, nil
}
