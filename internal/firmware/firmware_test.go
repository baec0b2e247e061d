package firmware

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

// guest makes the files of one.
func guest(t *testing.T) Place {
	t.Helper()
	dir := t.TempDir()
	p := Place{filepath.Join(dir, "web_VARS.fd"), filepath.Join(dir, "tpm2")}
	if err := os.Mkdir(p.TPM, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, p.NVRAM, "variables", 0o640)
	write(t, filepath.Join(p.TPM, "tpm2-00.permall"), "permanent", 0o600)
	write(t, filepath.Join(p.TPM, ".lock"), "", 0o600)
	return p
}

func write(t *testing.T, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func archived(t *testing.T, p Place) string {
	t.Helper()
	s, err := Read(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "web.s1.firmware.tar")
	if err := s.Write(file, Label{Domain: "web", UUID: "u", Snapshot: "s1", Taken: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWhatWasReadIsPutBack(t *testing.T) {
	p := guest(t)
	file := archived(t, p)
	permall := filepath.Join(p.TPM, "tpm2-00.permall")
	write(t, p.NVRAM, "other variables", 0o600)
	write(t, permall, "other", 0o600)
	write(t, filepath.Join(p.TPM, "tpm2-00.volatilestate"), "volatile", 0o600)
	s, l, err := Load(file)
	if err != nil || l.Snapshot != "s1" || l.UUID != "u" {
		t.Fatal(l, err)
	}
	if err := s.Put(p); err != nil {
		t.Fatal(err)
	}
	if content(t, p.NVRAM) != "variables" || content(t, permall) != "permanent" {
		t.Error("it is not what it was")
	}
	if info, err := os.Stat(p.NVRAM); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(p.TPM, "tpm2-00.volatilestate")); err == nil {
		t.Error("a volatile state of later is there yet")
	}
	now, err := Read(p)
	if err != nil || !now.Same(s) {
		t.Errorf("it reads differently: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(p.NVRAM)); len(entries) != 2 {
		t.Errorf("something is left behind: %v", entries)
	}
}

func TestStatesThatDiffer(t *testing.T) {
	p := guest(t)
	before, err := Read(p)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.TPM, "tpm2-00.permall"), "permanenT", 0o600)
	after, err := Read(p)
	if err != nil || after.Same(before) {
		t.Error("one byte of the TPM is not seen", err)
	}
	write(t, filepath.Join(p.TPM, "tpm2-00.permall"), "permanent", 0o600)
	write(t, p.NVRAM, "variableS", 0o640)
	if after, err = Read(p); err != nil || after.Same(before) {
		t.Error("one byte of the variables is not seen", err)
	}
}

// Every byte that counts is covered: a flipped one is an error, or changes nothing.
func TestADamagedFileIsNotPutBack(t *testing.T) {
	file := archived(t, guest(t))
	whole, _, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(content(t, file))
	refused := 0
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x10
		s, _, err := read(bytes.NewReader(bad))
		if err != nil {
			refused++
			continue
		}
		if !s.Same(whole) {
			t.Fatalf("byte %d: another state is taken for whole", i)
		}
	}
	if refused < 1000 {
		t.Errorf("only %d of %d bytes matter", refused, len(data))
	}
	for n := 0; n < len(data)-1024; n += 97 { // the end of a tar is 1 KiB of zeros
		if s, _, err := read(bytes.NewReader(data[:n])); err == nil && !s.Same(whole) {
			t.Fatalf("cut at %d: taken for whole", n)
		}
	}
}

func TestHostileFiles(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"a way out":    func(s string) string { return strings.Replace(s, "tpm/tpm2-00.permall", "tpm/../../e.permall", 1) },
		"no TPM state": func(s string) string { return strings.Replace(s, "tpm/tpm2-00.permall", "tpm/tpm2-00.profile", 1) },
		"empty":        func(string) string { return "" },
		"no tar":       func(string) string { return strings.Repeat("x", 2048) },
	} {
		file := archived(t, guest(t))
		write(t, file, change(content(t, file)), 0o600)
		if s, _, err := Load(file); err == nil {
			t.Errorf("%s: %+v", name, s)
		} else if !strings.Contains(err.Error(), file) {
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
	}
	p := guest(t)
	if _, err := Read(Place{NVRAM: p.TPM}); err == nil {
		t.Error("a directory is read as variables")
	}
	if s, err := Read(Place{NVRAM: filepath.Join(p.TPM, "none")}); err != nil || !s.Empty() {
		t.Error("variables that are not there yet", err)
	}
}
