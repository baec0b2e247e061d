package nfs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

// Cluster starts a member of an etcd cluster on each machine, the filer included, and returns how hosts reach them. The
// machines have the program "member".
func (l *Lab) Cluster() (endpoints []string, err error) {
	var members []etcdtest.Settings
	var names []string
	for _, m := range l.all() {
		s := etcdtest.Settings{Name: m.Name, Dir: "/disk/etcd", Client: "http://" + m.address() + ":2379", Peer: "http://" + m.address() + ":2380", Tick: 300}
		members, endpoints, names = append(members, s), append(endpoints, s.Client), append(names, s.Name+"="+s.Peer)
	}
	err = l.route()
	for i, m := range l.all() {
		members[i].Cluster = strings.Join(names, ",")
		environ, wrong := members[i].Environ()
		if err = errors.Join(err, wrong); err == nil {
			_, err = m.Run("sh", "-c", "export "+quoted(environ)+"; member >/disk/member.log 2>&1 </dev/null &")
		}
	}
	return endpoints, err
}

// route lets the hosts reach each other, by the filer.
func (l *Lab) route() error {
	_, err := l.Filer.Run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	for _, h := range l.Hosts {
		_, failed := h.Run("ip", "route", "add", "default", "via", strings.TrimSuffix(h.address(), "2")+"1")
		err = errors.Join(err, failed)
	}
	return err
}

// address is that of its first cable.
func (m *Machine) address() string {
	if m.kind == "filer" {
		return "10.0.1.1"
	}
	return fmt.Sprintf("10.0.%s.2", strings.TrimPrefix(m.Name, "host"))
}

// quoted is one word for a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Jump sets the machine's clock by so many seconds forward, or back.
func (m *Machine) Jump(seconds int64) error {
	_, err := m.Run("sh", "-c", fmt.Sprintf("date -s @$(( $(date +%%s) + %d ))", seconds))
	return err
}
