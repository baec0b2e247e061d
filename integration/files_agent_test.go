package integration_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// inGuestFile is what a file in the guest holds, by its agent.
func (b *bed) inGuestFile(path string) string {
	b.t.Helper()
	handle, err := b.agent("guest-file-open", map[string]any{"path": path, "mode": "r"})
	must(b.t, err)
	var n int64
	must(b.t, json.Unmarshal([]byte(handle), &n))
	text := ""
	for {
		answer, err := b.agent("guest-file-read", map[string]any{"handle": n, "count": 1 << 20})
		must(b.t, err)
		var got struct {
			Data []byte `json:"buf-b64"`
			EOF  bool
		}
		must(b.t, json.Unmarshal([]byte(answer), &got))
		text += string(got.Data)
		if got.EOF {
			break
		}
	}
	_, err = b.agent("guest-file-close", map[string]any{"handle": n})
	must(b.t, err)
	return text
}

// A file of a snapshot is written back into the running guest, by its agent.
func TestAFileIsWrittenIntoARunningGuest(t *testing.T) {
	t.Parallel()
	b := newLinuxBed(t)
	b.inGuest("i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done > /mnt/big; chmod 640 /mnt/big; chown 12:34 /mnt/big; sync; echo written >/dev/ttyS0")
	must(t, b.host.WaitSaid(t.Context(), "g1", "written"))
	b.writePolicy(keepThree)
	b.rotate("run", "--now").wantExit(t, 0)
	b.rotate("cp", "--host-kernel", "g1@latest:/big", b.path("big")).wantExit(t, 0)
	want, err := os.ReadFile(b.path("big"))
	must(t, err)
	if len(want) < 200000 || !strings.HasSuffix(string(want), "line 29999\n") {
		t.Fatalf("the snapshot has %d bytes", len(want))
	}
	b.inGuest("echo spoilt > /mnt/big; rm /mnt/gone; echo spoilt >/dev/ttyS0")
	must(t, b.host.WaitSaid(t.Context(), "g1", "spoilt"))
	if r := b.rotate("cp", "--host-kernel", "g1@latest:/big", "--to", "g1:/mnt/big"); r.Exit != 1 || !strings.Contains(r.Stderr, "--force") {
		t.Errorf("%v", r)
	}
	if got := b.inGuestFile("/mnt/big"); got != "spoilt\n" {
		t.Errorf("overwritten unasked: %.100q", got)
	}
	if r := b.rotate("cp", "--host-kernel", "--force", "g1@latest:/big", "--to", "g1:/mnt/big").wantExit(t, 0); strings.Contains(r.Stderr, "in place") {
		t.Errorf("%v", r)
	}
	if b.inGuestFile("/mnt/big") != string(want) {
		t.Error("the guest has another file")
	}
	b.rotate("cp", "--host-kernel", "g1@latest:/big", "--to", "g1:/mnt/new").wantExit(t, 0)
	b.inGuest("ls -ln /mnt > /mnt/list; sync; echo listed >/dev/ttyS0")
	must(t, b.host.WaitSaid(t.Context(), "g1", "listed"))
	list := b.inGuestFile("/mnt/list")
	if n := strings.Count(list, "-rw-r-----    1 12       34"); n != 2 || strings.Contains(list, "virt-rotate") {
		t.Errorf("owner and mode are other ones, or something is left:\n%s", list)
	}
	for line, exit := range map[string]int{"--to g1": 2, "--to g1:/mnt/x -r": 2, "--to nobody:/mnt/x": 1, "--to g1:/none/x": 1} {
		if r := b.rotate(append([]string{"cp", "--host-kernel", "g1@latest:/big"}, strings.Fields(line)...)...); r.Exit != exit || r.Stderr == "" {
			t.Errorf("%s: %v", line, r)
		}
	}
	b.stopAgent()
	if r := b.rotate("cp", "--host-kernel", "g1@latest:/big", "--to", "g1:/mnt/late"); r.Exit != 1 || !strings.Contains(r.Stderr, "agent does not answer") {
		t.Errorf("%v", r)
	}
}
