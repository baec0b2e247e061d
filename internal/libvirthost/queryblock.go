package libvirthost

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// aliases maps the names that libvirt gave its disks in QEMU to their targets.
func aliases(x *libvirtxml.Domain) map[string]string {
	targets := map[string]string{}
	if x.Devices == nil {
		return targets
	}
	for i := range x.Devices.Disks {
		if d := &x.Devices.Disks[i]; d.Alias != nil && d.Target != nil {
			targets[d.Alias.Name] = d.Target.Dev
		}
	}
	return targets
}

// queryBlock is what is needed of QEMU's answer to query-block.
type queryBlock struct {
	Return []struct {
		Qdev     string `json:"qdev"`
		Inserted struct {
			Image *queryImage `json:"image"`
		} `json:"inserted"`
	} `json:"return"`
}

type queryImage struct {
	Filename string      `json:"filename"`
	Backing  *queryImage `json:"backing-image"`
}

// readQueryBlock returns the chains, base first, by disk target. A device is
// named by its id, or by a path that the id is an element of.
func readQueryBlock(answer string, targets map[string]string) (map[string][]string, error) {
	var q queryBlock
	if err := json.Unmarshal([]byte(answer), &q); err != nil {
		return nil, fmt.Errorf("answer to query-block: %w", err)
	}
	chains := map[string][]string{}
	for _, dev := range q.Return {
		for part := range strings.SplitSeq(dev.Qdev, "/") {
			if target, ok := targets[part]; ok && dev.Inserted.Image != nil {
				chains[target] = dev.Inserted.Image.chain()
			}
		}
	}
	return chains, nil
}

func (i *queryImage) chain() []string {
	var paths []string
	for ; i != nil; i = i.Backing {
		paths = append(paths, i.Filename)
	}
	slices.Reverse(paths)
	return paths
}
