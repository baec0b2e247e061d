package guest

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// A Monitor is a connection to a guest's QEMU itself, which libvirt knows nothing of.
// QEMU has one connection at a time: libvirtd must be dead, and the monitor closed
// before it returns.
type Monitor struct {
	conn net.Conn
	in   *json.Decoder
}

// Monitor connects to a guest's QEMU.
func (h *Host) Monitor(name string) (*Monitor, error) {
	sockets, err := filepath.Glob(filepath.Join(h.dir, "lib/qemu/domain-*-"+name+"/monitor.sock"))
	if err != nil {
		return nil, err
	}
	if len(sockets) != 1 {
		return nil, fmt.Errorf("guest %s: want one monitor, there are %q", name, sockets)
	}
	conn, err := net.Dial("unix", sockets[0])
	if err != nil {
		return nil, err
	}
	m := &Monitor{conn, json.NewDecoder(conn)}
	if _, err := m.Execute("qmp_capabilities", nil); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

// Execute has QEMU do something and returns its answer. Events are dropped.
func (m *Monitor) Execute(command string, args map[string]any) (answer json.RawMessage, err error) {
	if err := m.conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return nil, err
	}
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return nil, err
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  json.RawMessage
		}
		if err := m.in.Decode(&reply); err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		if reply.Error != nil {
			return nil, fmt.Errorf("%s: %s", command, reply.Error)
		}
		if reply.Return != nil {
			return reply.Return, nil
		}
	}
}

// Close lets libvirtd connect again.
func (m *Monitor) Close() error { return m.conn.Close() }
