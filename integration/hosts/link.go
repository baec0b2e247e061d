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

// Link gives the first two hosts a network of their own; it returns the second's address there. Both
// libvirtds listen without asking who comes.
func (f *Fleet) Link() (address string, err error) {
	one, two := f.Host(1), f.Host(2)
	here, there := fmt.Sprint("vl", one.pid, "a"), fmt.Sprint("vl", one.pid, "b")
	c := []string{"link", "add", here, "netns", strconv.Itoa(one.pid), "type", "veth", "peer", "name", there, "netns", strconv.Itoa(two.pid)}
	if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("ip %v: %w: %s", c, err, out)
	}
	for i, h := range []*Host{one, two} {
		dev := []string{here, there}[i]
		_, failed := h.Run("ip", "addr", "add", fmt.Sprintf("10.99.0.%d/24", i+1), "dev", dev)
		_, failed2 := h.Run("ip", "link", "set", dev, "up")
		err = errors.Join(err, failed, failed2)
	}
	return "10.99.0.2", err
}

// RestartDaemon kills libvirtd and starts it anew; guests go on.
func (h *Host) RestartDaemon() error {
	if _, err := h.Run("sh", "-c", "kill -9 $(cat /run/libvirtd.pid)"); err != nil {
		return err
	}
	return h.startDaemon()
}

// Cut takes that network away.
func (f *Fleet) Cut() error {
	_, err := f.Host(1).Run("ip", "link", "del", fmt.Sprint("vl", f.Host(1).pid, "a"))
	return err
}
