package integration_test

import (
	"strings"
	"testing"
)

// A guest of virt-install takes its UEFI variables along to another host, and starts there with them.
func TestUEFIVariablesGoToAnotherHost(t *testing.T) {
	t.Parallel()
	g := newWizardGuest(t)
	g.virsh("suspend", "g1") // the firmware writes no more
	variables := sum(t, g.path("lib/qemu/nvram/g1_VARS.fd"))
	g.rotateNow("g1")
	dir := g.path("g1.export")
	g.rotate("export", "--all", "g1", "latest", "-o", dir).wantExit(t, 0)
	g.rotate("verify", dir).wantExit(t, 0)

	other := newDaemonBed(t)
	other.inside = true
	r := other.rotate("import", dir, "--to", other.path("images")).wantExit(t, 0)
	if !strings.Contains(r.String(), "UEFI variables of the export are in ") || !strings.Contains(r.String(), "the TPM begins empty") {
		t.Errorf("%v", r)
	}
	if got := sum(t, other.path("lib/qemu/nvram/g1_VARS.fd")); got != variables {
		t.Error("the variables are others")
	}
	other.virsh("start", "g1", "--paused")
	if got := sum(t, other.path("lib/qemu/nvram/g1_VARS.fd")); got != variables {
		t.Error("libvirt has made fresh variables for the first start")
	}
}
