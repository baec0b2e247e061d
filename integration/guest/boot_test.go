package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestBootSectorIsAssembledFromItsSource(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "boot.bin")
	if out, err := exec.CommandContext(t.Context(), "./assemble.sh", "boot.S", bin).CombinedOutput(); err != nil {
		t.Fatalf("assemble.sh: %v\n%s", err, out)
	}
	got, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bootCode) {
		t.Error("boot.bin is not what boot.S assembles to: run go generate")
	}
	if len(got) != sectorSize || got[510] != 0x55 || got[511] != 0xaa {
		t.Errorf("%d bytes, not a boot sector", len(got))
	}
}

func TestBootSectorHasItsParametersWhereTheyArePatched(t *testing.T) {
	// What the source says, before patching.
	want := Params{Slots: 1024, Stride: 1, Batch: 16, Pause: 1, Length: 1}
	if got := want.bootSector(); !bytes.Equal(got, bootCode) {
		t.Errorf("offsets differ from boot.S: % x", got[:24])
	}
}

func TestDefaultParamsReachEverySlot(t *testing.T) {
	for size := int64(2 * SlotSize); size < 300*SlotSize; size += SlotSize {
		p := DefaultParams(size)
		if err := p.validate(); err != nil {
			t.Fatalf("%d bytes: %+v: %v", size, p, err)
		}
	}
}
