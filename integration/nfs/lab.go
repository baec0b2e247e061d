package nfs

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Share is where hosts mount what the filer exports.
const Share = "/srv/share"

// Lease is how long the filer keeps locks of NFSv4 of a host that is silent, in seconds: Linux has 90 unless it
// is told otherwise, and takes no less than 10. Two hosts of the lab renew theirs each 10 s.
const Lease = 15

// A Lab is a filer, and hosts.
type Lab struct {
	Filer *Machine
	Hosts []*Machine
}

// A Way is a set of options to mount with.
type Way struct{ Name, Options string }

// Version4 tells whether locks are part of the protocol.
func (w Way) Version4() bool { return strings.HasPrefix(w.Options, "vers=4") }

// New switches the machines on, with all their files in dir, whose name has to be short: it has sockets.
// programs are more than they have, by name.
func New(dir string, programs map[string]string) (*Lab, error) {
	b, err := newBoot(dir, programs)
	if err != nil {
		return nil, err
	}
	lun := filepath.Join(dir, "lun")
	if err := errors.Join(os.WriteFile(lun, nil, 0o600), os.Truncate(lun, lunBytes)); err != nil {
		return nil, err
	}
	l := &Lab{Filer: &Machine{Name: "filer", kind: "filer", dir: filepath.Join(dir, "filer"), boot: b}}
	for n := 1; n <= 2; n++ {
		end := func(name string) string { return filepath.Join(dir, fmt.Sprintf("net%d-%s", n, name)) }
		name := fmt.Sprintf("host%d", n)
		l.Filer.cables = append(l.Filer.cables, cable{end("filer"), end("host")})
		l.Hosts = append(l.Hosts, &Machine{Name: name, kind: "host", dir: filepath.Join(dir, name), boot: b,
			cables: []cable{{end("host"), end("filer")}}})
	}
	return l, l.start()
}

func (l *Lab) start() error {
	failed := make(chan error)
	for _, m := range l.all() {
		go func() { failed <- m.Start() }()
	}
	var err error
	for range l.all() {
		err = errors.Join(err, <-failed)
	}
	if err == nil {
		err = l.export()
	}
	for _, h := range l.Hosts {
		if err == nil {
			err = Services(h)
		}
	}
	return err
}

func (l *Lab) all() []*Machine { return append([]*Machine{l.Filer}, l.Hosts...) }

// Close cuts the power of all.
func (l *Lab) Close() error {
	var err error
	for _, m := range l.all() {
		err = errors.Join(err, m.Cut())
	}
	return err
}

//go:embed export.sh
var exportScript string

// export starts the services of the filer.
func (l *Lab) export() error {
	_, err := l.Filer.Run("sh", "-c", exportScript, "export.sh", fmt.Sprint(Lease))
	return err
}

// Services starts what a host needs for locks of NFSv3, as a host does when it boots: it tells filers on which it had
// locks before that they are gone.
func Services(h *Machine) error {
	_, err := h.Run("sh", "-e", "-c", "rpcbind\nrpc.statd\n")
	return err
}

// Mount mounts a directory of the filer, which is made, on a host.
func (l *Lab) Mount(h *Machine, w Way, dir string) error {
	if _, err := l.Filer.Run("mkdir", "-p", "/disk/export/"+dir); err != nil {
		return err
	}
	from := "/disk/export/"
	if w.Version4() { // there the export is the root
		from = "/"
	}
	_, err := h.Run("sh", "-e", "-c", fmt.Sprintf("mkdir -p %[1]s\nmount.nfs 10.0.%[2]s.1:%[3]s%[4]s %[1]s -o %[5]s",
		Share, strings.TrimPrefix(h.Name, "host"), from, dir, w.Options))
	return err
}

// Unmount ends that. What is still open after a failure is not to fail what comes next as well.
func (l *Lab) Unmount(h *Machine) error {
	_, err := h.Run("umount", Share)
	if err != nil {
		_, lazy := h.Run("umount", "-l", Share)
		err = errors.Join(err, lazy)
	}
	return err
}
