package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/page"
)

func TestAReportShowsWhatCheckAndPlanTell(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	call(t, append(flags, "run")...)
	file := filepath.Join(t.TempDir(), "report.html")
	if out, errs, code := call(t, append(flags, "report", "-o", file)...); code != 0 || out+errs != "" {
		t.Fatalf("exit %d, %s%s", code, out, errs)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{page.Generator, ">test</a>", "unreadable", "/guest/diskimage1", "is its storage mounted?", "policy p · running"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not told", want)
		}
	}
	out, errs, code := call(t, append(flags, "report", "test", "--output=json")...)
	var m page.Model
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || errs != "" || len(m.Guests) != 1 || m.Guests[0].LastRun == nil || len(m.Guests[0].Plan.Refused) != 1 {
		t.Errorf("%v, exit %d, %s%s", err, code, out, errs)
	}
	var f struct {
		page.Fragments
		Model page.Model `json:"model"`
	}
	out, _, code = call(t, append(flags, "report", "--output=fragments")...)
	if err := json.Unmarshal([]byte(out), &f); err != nil || code != 0 || len(f.Guests) != 1 || !strings.HasPrefix(f.Guests[0].HTML, "<section") || len(f.Model.Guests) != 1 {
		t.Errorf("%v, exit %d, %s", err, code, out)
	}
	if out, _, code := call(t, append(flags, "report", "-o", "-")...); code != 0 || !strings.HasPrefix(out, "<!DOCTYPE html>") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// Only a report takes the place of a file; nothing of what is refused is changed.
func TestAReportReplacesReportsAlone(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "report.html"), filepath.Join(dir, "link")
	report := func(args ...string) (string, int) {
		t.Helper()
		_, errs, code := call(t, append(append(flags, "report", "-o"), args...)...)
		return errs, code
	}
	for range 2 { // the second replaces the first
		if errs, code := report(file); code != 0 {
			t.Fatalf("exit %d, %s", code, errs)
		}
	}
	if err := os.WriteFile(file, []byte("a letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{file}, {link}, {link, "--force"}, {dir}, {dir, "--force"}, {file, "--output=json"}} {
		if errs, code := report(args...); code != term.ExitRefused || !strings.Contains(errs, args[0]) {
			t.Errorf("%q: exit %d, %s", args, code, errs)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "a letter" {
		t.Errorf("%v, %s", err, data)
	}
	if errs, code := report(file, "--force"); code != 0 {
		t.Errorf("exit %d, %s", code, errs)
	}
	if data, err := os.ReadFile(file); err != nil || !bytes.Contains(data, []byte(page.Generator)) {
		t.Errorf("%v, %s", err, data)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".virt-rotate-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

func TestAReportWithoutLibvirtShowsWhatIsOnRecord(t *testing.T) {
	flags := policyFile(t, goodPolicy)
	call(t, append(flags, "run")...)
	flags[5] = "test:///no/such/file"
	out, errs, code := call(t, append(flags, "report", "-o", "-")...)
	if code != term.ExitFailed || !strings.Contains(out, "no-answer") || !strings.Contains(out, ">test</a>") || errs == "" {
		t.Errorf("exit %d, %s, %s", code, errs, out)
	}
}

func TestWrongUsageOfReports(t *testing.T) {
	good := policyFile(t, goodPolicy)
	for _, c := range []struct {
		args []string
		want string
	}{
		{append(good, "report"), "wants -o FILE"},
		{append(good, "report", "-o", "-", "--output=xml"), "want html, json or fragments"},
		{append(good, "report", "-o", "-", "nobody"), "nobody: no such domain"},
		{append(good, "status", "--watch"), "wants a terminal"},
		{append(good, "status", "--watch", "--output=json"), "is for people"},
		{[]string{"sr", "report", t.TempDir()}, "wants -o FILE"},
		{[]string{"sr", "report", "-o", "-"}, "wants DIR"},
		{[]string{"sr", "report", "-o", "-", "--output=human", "."}, "want html or json"},
	} {
		if out, errs, code := call(t, c.args...); code != term.ExitUsage || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want %q", c.args, code, out, errs, c.want)
		}
	}
}

// What scan marks is drawn, with what it gives back and why.
func TestAReportOfARepository(t *testing.T) {
	sample(t, "04c-garbage")
	text := must(t, "sr", "report", "sr", "-o", "-")
	for _, want := range []string{"What can be reclaimed", "<i>garbage</i>", "can be reclaimed</p>", "8571640a"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not told:\n%s", want, text)
		}
	}
	var m page.Model
	if err := json.Unmarshal([]byte(must(t, "sr", "report", "sr", "--output=json")), &m); err != nil || m.Repository.Nodes != 7 || m.Repository.Garbage == 0 || m.Level != page.OK {
		t.Errorf("%v: %+v", err, m.Repository)
	}
	if n := strings.Count(text, "<i>garbage</i>"); n != 5 {
		t.Errorf("%d nodes are garbage", n)
	}
}

// A node that is damaged is told, and the exit status is that of scan.
func TestAReportOfADamagedRepository(t *testing.T) {
	sample(t, "01-linear")
	files, err := filepath.Glob("sr/*.vhd")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	if err := os.Truncate(files[0], 1000); err != nil {
		t.Fatal(err)
	}
	code, out, errs := try(t, "sr", "report", "sr", "-o", "-")
	if code != term.ExitSome || !strings.Contains(out, "<i>damaged</i>") || !strings.Contains(out, "What needs attention") {
		t.Errorf("exit %d, %s, %s", code, errs, out)
	}
}
