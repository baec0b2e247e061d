package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/firmware"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// uefi is a guest with variables, and one disk.
func uefi(t *testing.T) (*hosttest.Host, *hosttest.Domain) {
	t.Helper()
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "web.qcow2")
	web.UEFI, web.HasTPM = true, true
	web.Firmware = host.Firmware{NVRAM: filepath.Join(h.Dir, "web_VARS.fd"), TPM: filepath.Join(h.Dir, "tpm2")}
	hosttest.Must(os.Mkdir(web.Firmware.TPM, 0o700))
	boots(web, "first")
	return h, web
}

// boots lets the firmware write.
func boots(d *hosttest.Domain, what string) {
	hosttest.Must(os.WriteFile(d.Firmware.NVRAM, []byte("variables of the "+what), 0o600))
	hosttest.Must(os.WriteFile(filepath.Join(d.Firmware.TPM, "tpm2-00.permall"), []byte("TPM of the "+what), 0o600))
}

// remembers is what the firmware has written last.
func remembers(t *testing.T, d *hosttest.Domain) string {
	t.Helper()
	vars, err := os.ReadFile(d.Firmware.NVRAM)
	hosttest.Must(err)
	tpm, err := os.ReadFile(filepath.Join(d.Firmware.TPM, "tpm2-00.permall"))
	hosttest.Must(err)
	what := strings.TrimPrefix(string(vars), "variables of the ")
	if string(tpm) != "TPM of the "+what {
		t.Errorf("variables %q with TPM %q", vars, tpm)
	}
	return what
}

// firmwares are the files in which snapshots keep it.
func firmwares(h *hosttest.Host) []string {
	found, err := filepath.Glob(filepath.Join(h.Dir, "img", "*"+host.FirmwareSuffix))
	hosttest.Must(err)
	return found
}

// checkFirmware sees that each snapshot has its own, and that nothing lies about.
func checkFirmware(h *hosttest.Host, t *testing.T) {
	t.Helper()
	var named []string
	web := h.Find("web")
	for i := range web.Snapshots {
		s := &web.Snapshots[i]
		path := s.FirmwareFile()
		if path == "" {
			t.Errorf("%s has none: %s", s.Name, s.Description)
			continue
		}
		_, label, err := firmware.Load(path)
		if err != nil || label.Snapshot != s.Name {
			t.Errorf("%s: %+v %v", s.Name, label, err)
		}
		named = append(named, path)
	}
	slices.Sort(named)
	if there := firmwares(h); !slices.Equal(there, named) {
		t.Errorf("there are %v, named are %v", h.Short(there), h.Short(named))
	}
}

func TestFirmwareIsKeptWithSnapshotsAndGoesWithThem(t *testing.T) {
	h, web := uefi(t)
	for i, what := range []string{"first", "second", "third"} {
		boots(web, what)
		h.Now = hosttest.Hour(12 + i)
		if p := runAll(h, t, rotator(h, rule(2)))["web"]; p.Error != "" || len(p.Warnings) > 0 {
			t.Fatal(p.Error, p.Warnings)
		}
		checkFirmware(h, t)
	}
	if n := len(firmwares(h)); n != 2 {
		t.Errorf("%d files", n)
	}
	boots(web, "fourth")
	h.Write(web, "vda", 3)
	web.State = host.ShutOff
	h.Now = hosttest.Hour(16)
	r := rotator(h, rule(9))
	back(t, h, r, web, web.Snapshots[0].Name, decide.RestoreOptions{})
	if got := remembers(t, web); got != "second" {
		t.Errorf("the firmware remembers the %s boot", got)
	}
	checkFirmware(h, t)
	back(t, h, r, web, web.Snapshots[len(web.Snapshots)-1].Name, decide.RestoreOptions{})
	if got := remembers(t, web); got != "fourth" {
		t.Errorf("the firmware remembers the %s boot: the present was to be kept", got)
	}
	back(t, h, r, web, web.Snapshots[0].Name, decide.RestoreOptions{NoFirmware: true})
	if got := remembers(t, web); got != "fourth" {
		t.Errorf("the firmware went back to the %s boot unasked", got)
	}
}

// What nobody has another copy of is kept when it is replaced.
func TestFirmwareThatIsReplacedIsKept(t *testing.T) {
	h, web := uefi(t)
	runAll(h, t, rotator(h, rule(9)))
	web.State = host.ShutOff
	for i := range web.Disks { // nothing was written since
		h.Change(web.Disks[i].Active().Path, func(i *hosttest.Image) { i.Blocks = hosttest.Blocks{} })
		web.Want[web.Disks[i].Target] = h.Read(web.Disks[i].Active().Path)
	}
	back(t, h, rotator(h, rule(9)), web, web.Snapshots[0].Name, decide.RestoreOptions{})
	if n := len(firmwares(h)); n != 1 {
		t.Errorf("what the snapshot has is kept twice: %d files", n)
	}
	boots(web, "second")
	p := back(t, h, rotator(h, rule(9)), web, web.Snapshots[0].Name, decide.RestoreOptions{})
	if got := remembers(t, web); got != "first" || len(p.Warnings) != 1 {
		t.Fatalf("the firmware remembers the %s boot: %v", got, p.Warnings)
	}
	_, path, _ := strings.Cut(p.Warnings[0], " are in ")
	w := see(h, t)
	if found := decide.Diagnose(w, nil, noPolicies, h.Now); !slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == decide.FindOrphan && f.Path == path }) {
		t.Errorf("doctor does not name %s: %+v", path, found)
	}
	state, _, err := firmware.Load(path)
	if err != nil || string(state.NVRAM.Data) != "variables of the second" {
		t.Errorf("%s: %v", p.Warnings[0], err)
	}
}

func TestFirmwareThatCannotGoBackIsRefusedBefore(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"damaged":       func(path string) error { return os.Truncate(path, 700) },
		"somebody's":    func(path string) error { return (&firmware.State{}).Write(path, firmware.Label{UUID: "other"}) },
		"nowhere to go": nil,
		"another's one": func(path string) error { return (&firmware.State{}).Write(path, firmware.Label{Snapshot: "s"}) },
	} {
		t.Run(name, func(t *testing.T) {
			h, web := uefi(t)
			runAll(h, t, rotator(h, rule(9)))
			web.State = host.ShutOff
			if spoil != nil {
				hosttest.Must(spoil(web.Snapshots[0].FirmwareFile()))
			} else {
				web.Firmware.NVRAM = ""
			}
			before := filesOf(h, t)
			p, err := rotator(h, rule(9)).Restore(t.Context(), "web", web.Snapshots[0].Name, decide.RestoreOptions{})
			if err != nil || !hasCode(&p, host.CodeUnreadable) || !strings.Contains(p.Refused[0].Detail, "--no-firmware") || !slices.Equal(before, filesOf(h, t)) {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
}

func TestFirmwareThatCannotBeReadCostsTheCopyAlone(t *testing.T) {
	h, web := uefi(t)
	hosttest.Must(os.Remove(web.Firmware.NVRAM))
	hosttest.Must(os.Remove(filepath.Join(web.Firmware.TPM, "tpm2-00.permall")))
	hosttest.Must(os.WriteFile(filepath.Join(web.Firmware.TPM, "tpm2-00.permall"), make([]byte, 17<<20), 0o600))
	p := runAll(h, t, rotator(h, rule(9)))["web"]
	if p.Error != "" || len(web.Snapshots) != 1 || web.Snapshots[0].FirmwareFile() != "" || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "are not copied") {
		t.Errorf("%+v %+v", p, web.Snapshots)
	}
	if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpFirmware }) {
		t.Error("the copy is told as done")
	}
	if there := firmwares(h); len(there) > 0 {
		t.Errorf("left behind: %v", there)
	}
}

// A file that another domain's snapshot names, too, stays for that one.
func TestFirmwareOfTwoDomainsStays(t *testing.T) {
	h, web := uefi(t)
	runAll(h, t, rotator(h, rule(9)))
	h.Write(web, "vda", 3)
	path := web.Snapshots[0].FirmwareFile()
	other := h.Add("other")
	h.Disk(other, "vda", "other.qcow2")
	h.Freeze(other, "copied", web.Snapshots[0].Description, hosttest.Hour(9))
	h.Now = hosttest.Hour(14)
	if p := runAll(h, t, rotator(h, rule(1)))["web"]; p.Error != "" || len(web.Snapshots) != 1 || web.Snapshots[0].FirmwareFile() == path {
		t.Fatalf("%+v %+v", p, web.Snapshots)
	}
	if _, _, err := firmware.Load(path); err != nil {
		t.Errorf("the other domain's is gone: %v", err)
	}
}

// The guest writes while the snapshot is taken.
func TestFirmwareThatChangesMeanwhileIsTold(t *testing.T) {
	h, web := uefi(t)
	h.Event = func(call string) error {
		if call == "call snapshot" {
			boots(web, "second")
		}
		return nil
	}
	p := runAll(h, t, rotator(h, rule(9)))["web"]
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "of the moment before") {
		t.Errorf("%+v", p)
	}
	h.Event = nil
	checkFirmware(h, t)
}

// Wherever a run dies, each snapshot has its own state afterwards, and none lies about.
func TestARunWithFirmwareThatDiesAnywhereLosesNothing(t *testing.T) {
	r := rule(1)
	n := 1
	for ; ; n++ {
		h, web := uefi(t)
		for i, what := range []string{"first", "second"} {
			boots(web, what)
			h.Now = hosttest.Hour(9 + i)
			runAll(h, t, rotator(h, rule(9)))
			h.Write(web, "vda", i)
		}
		h.Now = hosttest.Hour(11)
		boots(web, "third")
		count := 0
		if !die(h, rotator(h, r), func(string) bool { count++; return count == n }) {
			break
		}
		h.AfterCrash(hosttest.JobsGoOn)
		for i := range web.Snapshots {
			if _, _, err := firmware.Load(web.Snapshots[i].FirmwareFile()); err != nil {
				t.Fatalf("place %d: snapshot %s is listed, and its state is gone: %v", n, web.Snapshots[i].Name, err)
			}
		}
		finishes(h, t, r, decide.Options{})
		checkDone(h, t)
		checkFirmware(h, t)
		if t.Failed() {
			t.Fatalf("place %d", n)
		}
	}
	if n < 40 {
		t.Errorf("only %d places to die at", n-1)
	}
}
