package libvirthost

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// pools has a pool that runs, one that is stopped, and one of a network; of others libvirt
// knows nothing.
func pools(v host.Volume) place {
	switch v.Pool {
	case "default":
		return place{path: "/pool/" + v.Name, kind: host.KindFile}
	case "vg":
		return place{path: "/dev/vg/" + v.Name, kind: host.KindBlock}
	case "off":
		return place{missing: host.PoolStopped, perhaps: "/off/" + v.Name, why: "stopped"}
	case "rbd":
		return place{missing: host.NoFile, nowhere: true, why: "no file"}
	}
	return place{missing: host.NoPool, why: "no such pool"}
}

// volumeGuest runs on an overlay on a volume; %P is its pool.
const volumeGuest = `<domain type='kvm'><name>web</name><uuid>u</uuid><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/pool/s1.qcow2' startupPolicy='optional' index='3'/>
<backingStore type='volume' index='1'><format type='raw'/><source pool='%P' volume='web.raw' mode='host'><seclabel model='dac' relabel='no'/></source><backingStore/></backingStore>
<target dev='vda' bus='virtio'/></disk>
<disk type='volume' device='cdrom'><driver name='qemu' type='raw'/><source pool='%P' volume='init.iso' startupPolicy='optional'/><target dev='sda' bus='sata'/><readonly/></disk>
</devices></domain>`

func inPoolOf(pool string) string { return strings.ReplaceAll(volumeGuest, "%P", pool) }

func TestVolumesAreTheirFiles(t *testing.T) {
	for pool, want := range map[string]struct {
		base    host.Layer
		unknown int // of a guest that is off
		also    []string
	}{
		"default": {base: host.Layer{Path: "/pool/web.raw", Kind: host.KindFile}},
		"vg":      {base: host.Layer{Path: "/dev/vg/web.raw", Kind: host.KindBlock}},
		"off":     {base: host.Layer{Path: "off/web.raw", Kind: host.KindVolume, Missing: host.PoolStopped, Problem: "stopped"}, also: []string{"/off/init.iso", "/off/web.raw"}},
		"rbd":     {base: host.Layer{Path: "rbd/web.raw", Kind: host.KindVolume, Missing: host.NoFile, Problem: "no file"}},
		"gone":    {base: host.Layer{Path: "gone/web.raw", Kind: host.KindVolume, Missing: host.NoPool, Problem: "no such pool"}, unknown: 2},
	} {
		for _, state := range []host.State{host.ShutOff, host.Running} {
			d, v := host.Domain{State: state}, newVolumes(pools)
			if err := readDomain(&d, inPoolOf(pool), v); err != nil {
				t.Fatal(err)
			}
			v.note(&d)
			base := d.Disks[0].Chain[0]
			want.base.Format, want.base.Index, want.base.Volume = "raw", 1, host.Volume{Pool: pool, Name: "web.raw", Mode: "host"}
			if base != want.base {
				t.Errorf("%s: %+v, want %+v", pool, base, want.base)
			}
			if n := len(d.Unknown); state == host.ShutOff && n != want.unknown || state == host.Running && n != 0 {
				t.Errorf("%s, %s: %q", pool, state, d.Unknown)
			}
			if !slices.Equal(d.Elsewhere, want.also) {
				t.Errorf("%s: %q", pool, d.Elsewhere)
			}
			if named := base.Missing == ""; named != (d.Volumes[base.Path] == base.Volume) || named != (len(d.Volumes) == 2) {
				t.Errorf("%s: %v", pool, d.Volumes)
			}
			if code, why := d.Disks[0].Obstacle(); (code == host.CodeVolumeDisk) != (base.Missing != "") || why != base.Problem {
				t.Errorf("%s: %s %s", pool, code, why)
			}
		}
	}
}

// The present chain says by what name a file goes; older texts name what it does not have.
func TestThePresentChainNamesVolumes(t *testing.T) {
	d, v := host.Domain{}, newVolumes(pools)
	byPath := `<domain><devices><disk type='file'><driver type='raw'/><source file='/pool/a'/><target dev='vda'/></disk></devices></domain>`
	asVolumes := `<domain><devices><disk type='volume'><source pool='default' volume='a'/><target dev='vda'/></disk>
		<disk type='volume'><source pool='default' volume='b'/><target dev='vdb'/></disk></devices></domain>`
	if err := readDomain(&d, byPath, v); err != nil {
		t.Fatal(err)
	}
	if err := readElsewhere(&d, asVolumes, v); err != nil {
		t.Fatal(err)
	}
	v.note(&d)
	if want := map[string]host.Volume{"/pool/b": {Pool: "default", Name: "b"}}; !maps.Equal(d.Volumes, want) || !slices.Equal(d.Elsewhere, []string{"/pool/a", "/pool/b"}) {
		t.Errorf("%v, %q", d.Volumes, d.Elsewhere)
	}
	d.Disks[0].Chain = append(d.Disks[0].Chain, host.Layer{Path: "/pool/b"})
	if d.NameVolumes(d.Disks[0].Chain); d.Disks[0].Chain[0].Volume != (host.Volume{}) || d.Disks[0].Chain[1].Volume.Name != "b" {
		t.Errorf("%+v", d.Disks[0].Chain)
	}
}

func TestVolumesCountAsInUseWhereATextCannotBeRead(t *testing.T) {
	d, v := host.Domain{State: host.Running}, newVolumes(pools)
	noteNames(&d, `<disk><source pool='default' volume='a&amp;b' x='<'><source  volume="c" pool="off"/><source pool='gone' volume='d'/>`, v)
	v.note(&d)
	if !slices.Equal(d.Elsewhere, []string{"/pool/a&b", "/off/c"}) || len(d.Unknown) != 1 || !strings.Contains(d.Unknown[0], "gone/d") {
		t.Errorf("%q, %q", d.Elsewhere, d.Unknown)
	}
}

func TestWhereAVolumeLiesIsToldOnlyOfPlainNames(t *testing.T) {
	for _, c := range []struct{ kind, target, name, want string }{
		{"dir", "/p", "a.qcow2", "/p/a.qcow2"}, {"logical", "/dev/vg", "lv", "/dev/vg/lv"}, {"netfs", "/p/", "a", "/p/a"},
		{"rbd", "/p", "a", ""}, {"dir", "", "a", ""}, {"dir", "/p", "", ""}, {"dir", "/p", "..", ""}, {"dir", "/p", "../a", ""}, {"dir", "p", "a", ""},
	} {
		if got := inPool(c.kind, c.target, c.name); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// A running guest is on the file that its pool had when it was started.
func TestARunningGuestIsOnTheFileThatItWasStartedWith(t *testing.T) {
	for _, c := range []struct {
		path  string
		moved bool
	}{{"/pool/web.raw", false}, {"/alias/web.raw", false}, {"/former/web.raw", true}, {"", false}} {
		d, v := host.Domain{State: host.Running}, newVolumes(pools)
		if err := readDomain(&d, inPoolOf("default"), v); err != nil {
			t.Fatal(err)
		}
		runsOn(&d, &d.Disks[0], &d.Disks[0].Chain[0], c.path, func(a, _ string) bool { return c.path == "/alias/web.raw" && a == "/pool/web.raw" })
		v.note(&d)
		l := d.Disks[0].Chain[0]
		if c.moved != (l.Missing == host.VolumeMoved && l.Kind == host.KindVolume && slices.Equal(d.Elsewhere, []string{c.path, "/pool/web.raw"})) || !c.moved && l.Missing != "" {
			t.Errorf("%s: %+v, %q", c.path, l, d.Elsewhere)
		}
	}
}

// A chain that is written anew names volumes as before, with all that was said of them.
func TestChainsAreWrittenWithTheirVolumes(t *testing.T) {
	base := host.Layer{Path: "/pool/web.raw", Format: "raw", Kind: host.KindFile, Volume: host.Volume{Pool: "default", Name: "web.raw", Mode: "host"}}
	overlay := host.Layer{Path: "/pool/s2.qcow2", Format: "qcow2", Kind: host.KindFile}
	const cd = `<source pool="default" volume="init.iso" startupPolicy="optional"></source>`
	for _, c := range []struct {
		chain []host.Layer
		want  []string
	}{
		{[]host.Layer{base, overlay}, []string{
			`<disk type="file"`, `<source file="/pool/s2.qcow2" startupPolicy="optional"></source>`, `<backingStore type="volume"><format type="raw"></format>`,
			`<source pool="default" volume="web.raw" mode="host"><seclabel model="dac" relabel="no"></seclabel></source>`, cd}},
		{[]host.Layer{base}, []string{`<disk type="volume"`, `<source pool="default" volume="web.raw" mode="host" startupPolicy="optional"></source>`, cd}},
	} {
		fixed, err := fixConfiguration(inPoolOf("default"), map[string][]host.Layer{"vda": c.chain})
		if err != nil {
			t.Fatal(err)
		}
		flat := strings.Join(strings.Fields(strings.ReplaceAll(strings.ReplaceAll(fixed, ">\n", ">"), "\n", " ")), " ")
		flat = strings.ReplaceAll(flat, "> <", "><")
		for _, w := range c.want {
			if !strings.Contains(flat, w) {
				t.Errorf("no %s in\n%s", w, fixed)
			}
		}
		if strings.Contains(fixed, "/pool/web.raw") || len(c.chain) == 1 && strings.Contains(fixed, "/pool/s1.qcow2") {
			t.Errorf("%s", fixed)
		}
	}
	replaced, _, _, err := DomainXML(strings.ReplaceAll(inPoolOf("default"), "file='/pool/s1.qcow2'", "file='/x'"), "", []NewDisk{{Target: "vda", Active: overlay}})
	if err != nil || strings.Contains(replaced, "web.raw") {
		t.Errorf("%v: %s", err, replaced)
	}
}

// libvirt forgets what an overlay builds on when the guest is off; what was named as a
// volume is named so still.
func TestASnapshotOfAGuestThatIsOffKeepsVolumes(t *testing.T) {
	const rest = `<target dev='vda' bus='virtio'/></disk></devices></domain>`
	const top = `<domain type='kvm'><name>web</name><devices><disk type='`
	before := top + `volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='default' volume='web.qcow2' startupPolicy='optional'/>` + rest
	after := top + `file' device='disk'><driver name='qemu' type='qcow2'/><source file='/pool/s1.qcow2' startupPolicy='optional'/>` + rest
	fixed, err := keepVolumes(before, after)
	if err != nil {
		t.Fatal(err)
	}
	d := host.Domain{}
	if err := readDomain(&d, fixed, newVolumes(pools)); err != nil {
		t.Fatal(err)
	}
	chain := d.Disks[0].Chain
	if !slices.Equal(layerPaths(chain), []string{"/pool/web.qcow2", "/pool/s1.qcow2"}) || chain[0].Volume.Name != "web.qcow2" || chain[0].Format != "qcow2" || strings.Count(fixed, "startupPolicy") != 1 {
		t.Errorf("%s", fixed)
	}
	for name, texts := range map[string][2]string{
		"a file before": {after, after}, "nothing has changed": {before, before},
		"libvirt kept it":     {before, strings.Replace(after, "<target", "<backingStore type='file'><format type='qcow2'/><source file='/pool/web.qcow2'/></backingStore><target", 1)},
		"another disk":        {strings.Replace(before, "vda", "vdb", 1), after},
		"one without devices": {`<domain/>`, after},
	} {
		if fixed, err := keepVolumes(texts[0], texts[1]); fixed != "" || err != nil {
			t.Errorf("%s: %v: %s", name, err, fixed)
		}
	}
	if fixed, err := keepVolumes(before, strings.Replace(after, "<target", "<new/><target", 1)); err == nil {
		t.Errorf("what is not known is lost: %s", fixed)
	}
}
