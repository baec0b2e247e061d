//go:build page

package page_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/nspawn"
)

// onHost does on the host what the page cannot. States are those that qemu-img reads, not virt-rotate.
const onHost = `#!/bin/sh
set -e
attribute() { sed -n 's/.*="\(.*\)".*/\1/p'; }
image() { virsh dumpxml web-1 --xpath '/domain/devices/disk[target/@dev="vda"]/source/@file' | attribute; }
sum() { qemu-img convert -U -O raw "$1" /root/sum.raw; sha256sum </root/sum.raw | cut -d' ' -f1; }
case $1 in
off) virsh -q destroy web-1 ;;
start) virsh -q start web-1 ;;
running) virsh domstate web-1 ;;
lock) systemd-run --quiet --unit=holder flock /var/lib/virt-rotate/run.lock sleep 1000
	while flock -n /var/lib/virt-rotate/run.lock true; do sleep 0.1; done ;;
unlock) systemctl stop holder ;;
state) sum "$(virsh snapshot-dumpxml web-1 "$2" --xpath '/domainsnapshot/domain/devices/disk[target/@dev="vda"]/source/@file' | attribute)" ;;
disk) sum "$(image)" ;;
base) sum "$(qemu-img info -U --output=json "$(image)" | sed -n 's/.*"full-backing-filename": "\(.*\)".*/\1/p')" ;;
esac
`

const systemPolicy = `[policy.p]
domains = ["web-1"]
every = "1s"
keep = { last = 2 }
min_free = "0%"
bandwidth = "400KiB/s"
`

// debs builds the packages of the checkout.
func debs(t *testing.T) []string {
	t.Helper()
	dir, err := filepath.Abs(t.TempDir())
	must(t, err)
	cmd := exec.CommandContext(t.Context(), top+"/packaging/build.sh", "deb")
	cmd.Env = append(os.Environ(), "OUT="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	found, err := filepath.Glob(dir + "/*.deb")
	must(t, err)
	return found
}

// installCockpit installs the packages, as a host's administrator does, with Cockpit's own, and makes two users.
func installCockpit(t *testing.T, s *nspawn.System) {
	t.Helper()
	for _, deb := range debs(t) {
		s.Bring(deb, "/root/"+filepath.Base(deb))
	}
	s.Sh("apt-get install -y -qq --no-install-recommends ./virt-rotate*.deb cockpit")
	s.Write("/etc/virt-rotate/policy.toml", systemPolicy, 0o640)
	s.Write("/usr/local/sbin/on-host", onHost, 0o755)
	for user, groups := range map[string]string{"ann": "sudo", "bob": "users"} {
		s.Sh("useradd -m -s /bin/bash -G " + groups + " " + user + " && echo '" + user + ":correct horse' | chpasswd")
	}
	s.Sh("systemctl start cockpit.socket")
}

// In a Debian system with systemd, on which the packages were installed: somebody without rights is told so in the command's
// words; somebody with sudo gets administrative access, takes snapshots, watches a merge, pins, goes back, also
// with the plug pulled, and each time the disk has the snapshot's state, by its sha256.
func TestCockpitOnASystem(t *testing.T) {
	s := nspawn.Boot(t, "bookworm")
	installCockpit(t, s)
	s.StartGuest()
	program := filepath.Join(t.TempDir(), "host")
	enter := s.Command("/usr/local/sbin/on-host").Args
	must(t, os.WriteFile(program, []byte("#!/bin/sh\nexec '"+strings.Join(enter, "' '")+"' \"$@\"\n"), 0o755))
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net=/proc/"+s.Leader+"/ns/net", "node", "system.mjs",
		"https://127.0.0.1:9090/virt-rotate", pictures(t), program)
	cmd.Env = append(os.Environ(), "PAGE_MODULES="+modules(t))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		said, _ := s.Try("journalctl --no-pager -n 60")
		t.Fatalf("%v\n%s", err, said)
	}
}
