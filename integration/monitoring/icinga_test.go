//go:build icinga

package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An icinga is a daemon of its own, which knows one host and our example's service.
type icinga struct {
	t   *testing.T
	dir string
}

const icingaConf = `include <itl>
const NodeName = "kvm1"
object CheckerComponent "checker" { }
object PerfdataWriter "perf" {
  host_perfdata_path = "%[1]s/perf/host"
  service_perfdata_path = "%[1]s/perf/service"
  host_temp_path = "%[1]s/host.tmp"
  service_temp_path = "%[1]s/service.tmp"
  rotation_interval = 1s
  service_format_template = "<$service.state$> $service.output$ <$service.perfdata$>"
}
object Host "kvm1" {
  check_command = "dummy"
  vars.virt_rotate = true
}
include "%[1]s/virt-rotate.conf"
`

// newIcinga writes its configuration: our example, with the program as it is here.
func newIcinga(t *testing.T) *icinga {
	t.Helper()
	i := &icinga{t, t.TempDir()}
	for _, dir := range []string{"perf", "data", "log", "cache", "run"} {
		i.must(os.Mkdir(filepath.Join(i.dir, dir), 0o755))
	}
	program := filepath.Join(i.dir, "virt-rotate")
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", program, "../../cmd/virt-rotate").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	example, err := os.ReadFile("../../examples/icinga2/virt-rotate.conf")
	i.must(err)
	text := string(example)
	for was, is := range map[string]string{
		`"/usr/bin/sudo", "-n", "/usr/bin/virt-rotate"`: fmt.Sprintf("%q", i.dir+"/plugin"),
		"check_interval = 15m":                          "check_interval = 1s",
		"retry_interval = 5m":                           "retry_interval = 1s",
	} {
		if !strings.Contains(text, was) {
			t.Fatalf("the example has no %s", was)
		}
		text = strings.Replace(text, was, is, 1)
	}
	i.write("virt-rotate.conf", text)
	i.write("icinga2.conf", fmt.Sprintf(icingaConf, i.dir))
	i.write("plugin", fmt.Sprintf("#!/bin/sh\nVIRT_ROTATE_POLICY=%[1]s/policy.toml exec %[1]s/virt-rotate \"$@\"\n", i.dir))
	i.must(os.Chmod(filepath.Join(i.dir, "plugin"), 0o755))
	return i
}

func (i *icinga) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

func (i *icinga) write(name, text string) {
	i.t.Helper()
	i.must(os.WriteFile(filepath.Join(i.dir, name), []byte(text), 0o644))
}

// policy is about libvirt's test driver.
func (i *icinga) policy(tables string) {
	i.t.Helper()
	i.write("policy.toml", fmt.Sprintf("connect = \"test:///default\"\nstate_dir = %q\n%s", i.dir+"/state", tables))
}

func (i *icinga) command(args ...string) *exec.Cmd {
	i.t.Helper()
	cache, err := os.UserCacheDir()
	i.must(err)
	root := filepath.Join(cache, "virt-rotate", "icinga")
	found, err := filepath.Glob(root + "/usr/lib/*/icinga2/sbin/icinga2")
	if err != nil || len(found) != 1 {
		i.t.Fatalf("no icinga2 in %s: make test-monitoring unpacks it", root)
	}
	lib := filepath.Dir(filepath.Dir(filepath.Dir(found[0])))
	args = append(args, "-c", i.dir+"/icinga2.conf", "-D", "IncludeConfDir="+root+"/usr/share/icinga2/include")
	me, err := user.Current()
	i.must(err)
	group, err := user.LookupGroupId(me.Gid)
	i.must(err)
	args = append(args, "-D", "RunAsUser="+me.Username, "-D", "RunAsGroup="+group.Name)
	for name, dir := range map[string]string{"DataDir": "data", "LogDir": "log", "CacheDir": "cache", "SpoolDir": "perf", "InitRunDir": "run", "ConfigDir": "."} {
		args = append(args, "-D", name+"="+filepath.Join(i.dir, dir))
	}
	cmd := exec.Command(found[0], args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+lib+":"+strings.Replace(lib, "/usr/lib", "/lib", 1), "ICINGA2_ERROR_LOG="+i.dir+"/log/error")
	return cmd
}

// start runs the daemon until the test ends.
func (i *icinga) start() {
	i.t.Helper()
	cmd := i.command("daemon")
	log, err := os.Create(filepath.Join(i.dir, "log", "out"))
	i.must(err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	i.must(cmd.Start())
	i.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = log.Close()
	})
}

// await returns the first result of a check that begins so.
func (i *icinga) await(state string) string {
	i.t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		files, _ := filepath.Glob(i.dir + "/perf/service*")
		for _, file := range files {
			text, _ := os.ReadFile(file)
			if at := strings.Index(string(text), "<"+state+">"); at >= 0 {
				return string(text[at:])
			}
		}
	}
	log, _ := os.ReadFile(filepath.Join(i.dir, "log", "out"))
	i.t.Fatalf("icinga2 has not come to %s:\n%s", state, log)
	return ""
}

func TestIcingaRunsTheExampleAndReadsItsFigures(t *testing.T) {
	i := newIcinga(t)
	if out, err := i.command("daemon", "-C").CombinedOutput(); err != nil {
		t.Fatalf("icinga2 daemon -C: %v\n%s", err, out)
	}
	i.policy("[policy.p]\ndomains = [\"test\"]\nkeep = { last = 3 }\n")
	i.start()
	for _, want := range []string{"not well protected: test (unreadable, no-snapshot)", "<guests=1;;;0 ok=0;;;0 warning=1;;;0 critical=0;;;0 unknown=0;;;0 uncovered=0;;;0 test_layers=1;;;0;30 test_allocated=0B;;;0>"} {
		if got := i.await("WARNING"); !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	i.policy("[policy.p]\ndomains = [\"t*\"]\nkeep = { last = 3 }\n[policy.q]\ndomains = [\"test\"]\nkeep = { last = 3 }\n")
	if got := i.await("CRITICAL"); !strings.Contains(got, "test (two-policies)") {
		t.Error(got)
	}
	i.policy("[check]\nuncovered = \"ignore\"\n[policy.p]\ndomains = [\"nobody\"]\nkeep = { last = 3 }\n")
	if got := i.await("OK"); !strings.Contains(got, "no guest of this host needs a policy") {
		t.Error(got)
	}
	i.policy("frob = 1\n")
	i.await("UNKNOWN")
}
