package vfs

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// table is a mountinfo as hosts with shares have it: %DEV is replaced by a device.
const table = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:50 / /mnt/v3 rw,relatime shared:20 - nfs s:/v3 rw,vers=3,hard,local_lock=none,addr=10.0.0.1
41 22 0:51 / /mnt/nolock rw,relatime - nfs s:/nolock rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
42 22 0:52 / /mnt/posix rw,relatime - nfs s:/posix rw,vers=3,local_lock=posix
43 22 0:53 / /mnt/flock rw,relatime - nfs s:/flock rw,vers=3,local_lock=flock
44 22 0:54 / /mnt/v4 rw,relatime shared:1 master:2 propagate_from:2 - nfs4 s:/v4 rw,vers=4.2,local_lock=none
45 22 0:55 / /mnt/with\040space\011tab\134back\012line rw - nfs s:/x\040y rw,vers=3,nolock
46 22 0:56 / /mnt/smb rw - cifs //s/share rw,vers=3.1.1,nobrl
47 22 0:57 / /mnt/smb2 rw - cifs //s/share rw,vers=3.1.1
48 22 0:58 / /mnt/gfs2 rw - gfs2 /dev/x rw,localflocks
49 22 0:59 / /mnt/lustre rw - lustre s:/l rw,localflock
50 22 8:1 /srv/bind /mnt/bind rw - ext4 /dev/sda1 rw
51 41 0:51 /sub /mnt/boundnolock rw - nfs s:/nolock/sub rw,vers=3,nolock
60 22 0:60 / /over rw - nfs s:/one rw,vers=3,nolock
61 60 0:61 / /over rw - nfs s:/two rw,vers=3
62 22 0:62 / /hidden/deep rw - nfs s:/three rw,vers=3,nolock
63 22 0:63 / /hidden rw - nfs s:/four rw,vers=3
64 22 0:64 / /again rw - nfs s:/five rw,vers=3
65 64 0:64 / /again rw - nfs s:/five rw,vers=3,local_lock=all
66 22 0:66 / /pool rw - nfs s:/six rw,vers=3
67 66 0:67 / /pool/nolock rw - nfs s:/six/nolock rw,vers=3,nolock
garbage
68 22 x:y / /broken rw - nfs s: rw,nolock
70 22 0:70 / /short rw - nfs
`

func TestMountsOfWhichLocksStayLocal(t *testing.T) {
	all := parseMounts(table)
	for _, c := range []struct {
		path  string
		minor uint32
		want  string // in the reason; "" for none
	}{
		{"/mnt/v3/disk", 50, ""},
		{"/mnt/nolock/a/disk", 51, "nolock"},
		{"/mnt/nolock", 51, "nolock"},
		{"/mnt/nolockaswell/disk", 1, ""},
		{"/mnt/posix/disk", 52, "local_lock=posix"},
		{"/mnt/flock/disk", 53, ""}, // QEMU's locks are none of flock
		{"/mnt/v4/disk", 54, ""},
		{"/mnt/with space\ttab\\back\nline/disk", 55, "nolock"},
		{"/mnt/smb/disk", 56, "nobrl"},
		{"/mnt/smb2/disk", 57, ""},
		{"/mnt/gfs2/disk", 58, "localflocks"},
		{"/mnt/lustre/disk", 59, "localflock"},
		{"/mnt/boundnolock/disk", 51, "/mnt/boundnolock is mounted with nolock"},
		{"/over/disk", 61, ""},                // what lies below is hidden
		{"/over/disk", 60, "nolock"},          // a file that was opened before
		{"/hidden/deep/disk", 63, ""},         // hidden by what was mounted above it
		{"/again/disk", 64, "local_lock=all"}, // one device twice: the last
		{"/pool/disk", 66, ""},
		{"/pool/nolock/disk", 67, "nolock"},
		{"/pool/nolock/disk", 99, "nolock"}, // no such device: the path decides
		{"/home/disk", 99, ""},
	} {
		m, ok := mountOf(all, c.path, unix.Mkdev(0, c.minor))
		if got := m.localLocks(); !ok || (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, %v; want %q", c.path, got, ok, c.want)
		}
	}
	if m, ok := mountOf(parseMounts("garbage\n"), "/disk", 1); ok {
		t.Errorf("%+v", m)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", `a\040b`: "a b", `\134040`: `\040`, `a\`: `a\`, `a\04`: `a\04`, `a\0x0`: `a\0x0`, `\303\244`: "ä",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// The table of this host has every file on some mount.
func TestEveryFileIsOnAMount(t *testing.T) {
	text, err := readMounts()
	must(t, err)
	all := parseMounts(text)
	for _, path := range []string{t.TempDir(), "/proc/self/mountinfo", "/dev/null"} {
		fi, err := os.Stat(path)
		must(t, err)
		if m, ok := mountOf(all, path, infoOf(fi).ID.Dev); !ok || m.kind == "" {
			t.Errorf("%s: %+v", path, m)
		}
	}
}

// Through a symbolic link the file is on the share all the same.
func TestLocksStayLocalFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "")
	link := t.TempDir() + "/link"
	must(t, os.Symlink(path, link))
	k := overNFS(nfs, nil)
	k.mounts = func() (string, error) {
		return "1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / " + dir + " rw - nfs s: rw,nolock\n", nil
	}
	for _, p := range []string{path, link} {
		if reason, err := locksStayLocal(p, k); err != nil || !strings.Contains(reason, dir+" is mounted with nolock") {
			t.Errorf("%s: %q, %v", p, reason, err)
		}
	}
	k.mounts = func() (string, error) { return "", unix.EIO }
	_, err := locksStayLocal(path, k)
	wantErr(t, err, unix.EIO)
	k.mounts = func() (string, error) { return "", nil }
	if reason, err := locksStayLocal(path, k); err == nil {
		t.Errorf("%q: a file on no mount", reason)
	}
}
