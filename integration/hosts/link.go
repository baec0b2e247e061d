package hosts

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
)

// Connect gives the host a network of two: itself and this process, whose address is returned.
func (h *Host) Connect() (address string, err error) {
	here, there := fmt.Sprint("vr", h.pid, "a"), fmt.Sprint("vr", h.pid, "b")
	address = fmt.Sprintf("169.254.%d.%d", 1+h.pid%250, 4*h.n+1)
	for _, c := range [][]string{
		{"link", "add", here, "type", "veth", "peer", "name", there, "netns", strconv.Itoa(h.pid)},
		{"addr", "add", address + "/30", "dev", here},
		{"link", "set", here, "up"},
	} {
		if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("ip %v: %w: %s", c, err, out)
		}
	}
	_, err = h.Run("ip", "addr", "add", fmt.Sprintf("169.254.%d.%d/30", 1+h.pid%250, 4*h.n+2), "dev", there)
	return address, errors.Join(err, h.Network(true))
}

// Network takes the host off its network, or puts it on again.
func (h *Host) Network(on bool) error {
	_, err := h.Run("ip", "link", "set", fmt.Sprint("vr", h.pid, "b"), map[bool]string{true: "up", false: "down"}[on])
	return err
}
