//go:build packages

package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nspawn"
)

// A system is a Debian system on which the package is tried.
type system struct {
	*nspawn.System
	t *testing.T
}

// laterVersion sorts behind every version that the checkout can have.
const laterVersion = "99.0.0"

// A fresh host: the package, a policy, the timer; then all that comes in the life of a package.
func TestPackageOnBookworm(t *testing.T) { testPackageOn(t, "bookworm") }
func TestPackageOnTrixie(t *testing.T)   { testPackageOn(t, "trixie") }

func testPackageOn(t *testing.T, suite string) {
	t.Parallel()
	now, later := packagesOf(t, ""), packagesOf(t, laterVersion)
	s := &system{nspawn.Boot(t, suite), t}
	s.Bring(now.deb, "/root/virt-rotate.deb")
	s.Bring(now.cockpitDeb, "/root/virt-rotate-cockpit.deb")
	s.Bring(later.deb, "/root/later/virt-rotate.deb")
	s.checkedByLintian()
	s.StartGuest()
	s.Transcript.Reset()
	s.installs(now.version)
	s.unitsAreRight()
	s.firstPolicy()
	t.Logf("a fresh %s:\n%s", suite, s.Transcript.String())
	s.timerRotates()
	s.rotatesWhileOff()
	s.isRestricted()
	s.runAtWorkIsNoFailure()
	s.failureIsTold()
	s.completes()
	s.upgrades()
	s.removes()
	s.purges()
	s.hasCockpit()
}

func (s *system) checkedByLintian() {
	s.t.Helper()
	out := s.Sh("lintian --allow-root --fail-on error,warning --display-level '>=warning' /root/virt-rotate.deb /root/virt-rotate-cockpit.deb")
	if strings.TrimSpace(out) != "" {
		s.t.Errorf("lintian of %s:\n%s", s.Suite, out)
	}
}

func (s *system) installs(version string) {
	s.t.Helper()
	s.Sh("apt-get install -y -qq ./virt-rotate.deb")
	if got := s.Sh("virt-rotate --version"); !strings.HasPrefix(got, "virt-rotate version "+version+" (commit ") {
		s.t.Errorf("--version says %q, want %s", got, version)
	}
	if got := s.Sh("stat -c %a:%U:%G /etc/virt-rotate"); got != "750:root:root\n" {
		s.t.Errorf("/etc/virt-rotate has %s", got)
	}
	if got, _ := s.Try("systemctl is-enabled virt-rotate.timer"); got != "disabled\n" {
		s.t.Errorf("the timer is %s", got)
	}
	if got := s.Property("virt-rotate.timer", "ActiveState"); got != "inactive" {
		s.t.Errorf("the timer is %s without anybody's doing", got)
	}
}

func (s *system) unitsAreRight() {
	s.t.Helper()
	if out := s.Sh("systemd-analyze verify virt-rotate.service virt-rotate.timer 2>&1"); out != "" {
		s.t.Errorf("systemd-analyze verify:\n%s", out)
	}
	s.Sh("systemctl start virt-rotate.service") // without a policy
	if got := s.Property("virt-rotate.service", "ConditionResult"); got != "no" {
		s.t.Errorf("without a policy the service's condition is %q", got)
	}
	s.Sh("cp /usr/share/doc/virt-rotate/examples/virt-rotate-failure@.service /etc/systemd/system/")
	if out := s.Sh("systemd-analyze verify virt-rotate-failure@x.service 2>&1 | grep -v 'Command mail is not executable' || true"); out != "" {
		s.t.Errorf("systemd-analyze verify of the failure unit:\n%s", out)
	}
	s.Sh("rm /etc/systemd/system/virt-rotate-failure@.service")
}

// firstPolicy does what the first page of the README shows, to the letter, once the package is there.
func (s *system) firstPolicy() {
	s.t.Helper()
	_, page, _ := strings.Cut(read(s.t, top+"/README.md"), "```console\n")
	page, _, _ = strings.Cut(page, "```\n")
	install, rest, _ := strings.Cut(page, "\n")
	if !strings.HasPrefix(install, "# apt install ./virt-rotate_") {
		s.t.Fatalf("the README begins with %q", install)
	}
	s.Transcript.Reset()
	said := map[string]string{}
	for _, line := range strings.Split(rest, "\n") {
		if command, ok := strings.CutPrefix(line, "# "); ok {
			said[command] = s.Sh(command)
		}
	}
	if !strings.Contains(said["virt-rotate plan"], "web-1 (policy all, running): 1 step") {
		s.t.Errorf("plan says\n%s", said["virt-rotate plan"])
	}
	if s.Property("virt-rotate.timer", "ActiveState") != "active" {
		s.t.Error("after the first page of the README the timer is not active")
	}
	if len(s.Snapshots()) != 0 {
		s.t.Error("there are snapshots before the timer has elapsed")
	}
}

// timerRotates lets the timer elapse every few seconds, until runs have taken snapshots and merged.
func (s *system) timerRotates() {
	s.t.Helper()
	s.Sh("sed -i 's/^every = .*/every = \"1s\"/; s/last = 7/last = 2/' /etc/virt-rotate/policy.toml")
	s.Write("/etc/systemd/system/virt-rotate.timer.d/often.conf", "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nAccuracySec=1s\nRandomizedDelaySec=0\n", 0o644)
	s.Sh("systemctl daemon-reload && systemctl restart virt-rotate.timer")
	s.Await("the timer's run to merge", func() (bool, error) {
		return strings.Contains(s.Journal(), "merge"), nil
	})
	s.Sh("systemctl stop virt-rotate.timer")
	s.awaitEndOfRuns()
	s.succeeded("0")
	if journal := s.Journal(); !strings.Contains(journal, "web-1") || !strings.Contains(journal, "snapshot") {
		s.t.Errorf("the journal does not tell of the guest:\n%s", journal)
	}
	if got := s.Snapshots(); len(got) != 2 {
		s.t.Fatalf("there are snapshots %q, want two", got)
	}
	s.rotatesOnce()
	out := s.Sh("virt-rotate doctor")
	if !strings.Contains(out, "nothing") && strings.Contains(out, "web-1") {
		s.t.Errorf("doctor finds\n%s", out)
	}
}

// rotatesOnce has a running guest rotated.
func (s *system) rotatesOnce() {
	s.t.Helper()
	s.rotates(func() { s.WaitWrites(30) })
	if got := strings.TrimSpace(s.Sh("virsh domstate web-1")); got != "running" {
		s.t.Errorf("the guest is %s", got)
	}
}

// rotatesWhileOff has it rotated by the engine, which works on the files itself.
func (s *system) rotatesWhileOff() {
	s.t.Helper()
	s.rotates(func() {
		s.WaitWrites(30)
		s.Sh("virsh -q destroy web-1")
	})
	s.Sh("virsh -q start web-1")
}

// rotates starts the service: a new snapshot comes, the oldest goes, the other stays as it was.
func (s *system) rotates(prepare func()) {
	s.t.Helper()
	before := s.Snapshots()
	kept := before[len(before)-1]
	was := s.Blocks(kept)
	prepare()
	time.Sleep(1500 * time.Millisecond)                                                     // every = "1s" has gone by
	s.Sh("systemctl reset-failed virt-rotate.service; systemctl start virt-rotate.service") // starts are not counted here
	s.succeeded("0")
	after := s.Snapshots()
	if len(after) != 2 || after[0] != kept || slices.Contains(before, after[1]) {
		s.t.Fatalf("snapshots were %q and are %q\n%s", before, after, s.Journal())
	}
	if is := s.Blocks(kept); is != was {
		s.t.Errorf("%s held %d blocks and holds %d", kept, was, is)
	}
	if newest := s.Blocks(after[1]); newest <= was {
		s.t.Errorf("%s holds %d blocks, no more than the one before it", after[1], newest)
	}
	if layers := strings.Count(s.Sh("ls "+nspawn.Images), "web-1."); layers != 3 {
		s.t.Errorf("there are %d layers, want 3", layers)
	}
}

// isRestricted lets a hook, which lives under the restrictions of the unit, tell of them.
func (s *system) isRestricted() {
	s.t.Helper()
	s.Write("/usr/local/sbin/tell", "#!/bin/sh\nexec >/var/lib/virt-rotate/told 2>&1\ncat /proc/self/status\n"+
		"for dir in /usr /home; do touch $dir/touched && echo wrote below $dir; done\nexit 0\n", 0o755)
	s.Sh("cp -a /etc/virt-rotate/policy.toml /root/policy.toml; printf '[policy.all.hooks]\\nbefore = [\"/usr/local/sbin/tell\"]\\n' >>/etc/virt-rotate/policy.toml")
	s.rotatesOnce()
	told := s.Sh("cat /var/lib/virt-rotate/told; rm /var/lib/virt-rotate/told; cp -a /root/policy.toml /etc/virt-rotate/policy.toml")
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t000000000000000f"} { // chown, dac_override, dac_read_search, fowner
		if !strings.Contains(told, want) {
			s.t.Errorf("the unit's process has not %q:\n%s", want, told)
		}
	}
	if strings.Contains(told, "wrote below") {
		s.t.Errorf("the unit's process may write where it need not:\n%s", told)
	}
}

// succeeded sees how the last run ended.
func (s *system) succeeded(status string) {
	s.t.Helper()
	result, code := s.Property("virt-rotate.service", "Result"), s.Property("virt-rotate.service", "ExecMainStatus")
	if result != "success" || code != status {
		s.t.Errorf("the run ended with %s, status %s, want success, status %s:\n%s", result, code, status, s.Journal())
	}
}

// runAtWorkIsNoFailure has the lock of a run taken by somebody else.
func (s *system) runAtWorkIsNoFailure() {
	s.t.Helper()
	s.Sh("systemd-run --quiet --unit=holder flock /var/lib/virt-rotate/run.lock sleep 1000")
	s.Await("the lock", func() (bool, error) {
		_, code := s.Try("flock -n /var/lib/virt-rotate/run.lock true")
		return code != 0, nil
	})
	s.Sh("systemctl start virt-rotate.service")
	s.succeeded("5")
	s.Sh("systemctl stop holder")
}

// failureIsTold follows the notes in the units.
func (s *system) failureIsTold() {
	s.t.Helper()
	s.Sh("cp /usr/share/doc/virt-rotate/examples/virt-rotate-failure@.service /etc/systemd/system/")
	s.Write("/etc/systemd/system/virt-rotate.service.d/override.conf", "[Unit]\nOnFailure=virt-rotate-failure@%n.service\n", 0o644)
	s.Write("/usr/local/bin/mail", "#!/bin/sh\n{ echo \"$*\"; cat; } >/root/mail.new; mv /root/mail.new /root/mail\n", 0o755)
	s.Sh("systemctl daemon-reload; cp -a /etc/virt-rotate/policy.toml /root/policy.toml; echo 'evry = 1' >>/etc/virt-rotate/policy.toml")
	const errors = "journalctl --no-pager -q -o cat -p err -t virt-rotate"
	if out := s.Sh(errors); out != "" {
		s.t.Errorf("runs that went well have told at priority err\n%s", out)
	}
	if out := s.Sh("journalctl --no-pager -q -o cat -t virt-rotate"); !strings.Contains("\n"+out, "\nweb-1: snapshot taken") {
		s.t.Errorf("the journal has no line of the guest:\n%s", out)
	}
	if out, code := s.Try("systemctl start virt-rotate.service"); code == 0 {
		s.t.Errorf("with a wrong policy the service starts: %s", out)
	}
	s.Await("the mail", func() (bool, error) { return s.Exists("/root/mail"), nil })
	if mail := s.Sh("cat /root/mail"); !strings.Contains(mail, "-s virt-rotate.service has failed on kvm1 root") || !strings.Contains(mail, "policy.toml") || !strings.Contains(mail, "evry") {
		s.t.Errorf("the mail is\n%s", mail)
	}
	if out := s.Sh(errors); !strings.HasPrefix(out, "virt-rotate: ") || !strings.Contains(out, "evry") {
		s.t.Errorf("of the failure, the journal has at priority err\n%s", out)
	}
	if out := s.Sh("journalctl --no-pager -p err -t virt-rotate-failure"); !strings.Contains(out, "virt-rotate.service has failed on kvm1") {
		s.t.Errorf("the journal has at priority err\n%s", out)
	}
	s.Sh("cp -a /root/policy.toml /etc/virt-rotate/policy.toml; systemctl reset-failed virt-rotate.service; rm -r /etc/systemd/system/virt-rotate.service.d")
	s.Sh("systemctl daemon-reload")
}

// completes types in the bash of the system, where bash-completion finds the package's file.
func (s *system) completes() {
	s.t.Helper()
	names := s.Snapshots()
	m := newTerminal(s.t, s.Command("bash", "--norc", "--noprofile", "-i"))
	m.send("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; . /usr/share/bash-completion/bash_completion\n")
	m.send(`bind -x '"\C-g": printf "%s<%s>%s\n" LINE "$READLINE_LINE" ENDS'; printf 'READ%s\n' Y!` + "\n")
	m.await("READY", "!")
	last := names[len(names)-1]
	for typed, want := range map[string]string{
		"virt-rotate plan w":                              "virt-rotate plan web-1",
		"virt-rotate restore web-1 " + last[:len(last)-1]: "virt-rotate restore web-1 " + last,
	} {
		if got := m.pressed(typed); got != want {
			s.t.Errorf("%q becomes %q, want %q", typed, got, want)
		}
	}
}

// kept is what must not change: policy, state, and whether the timer is enabled.
func (s *system) kept() string {
	s.t.Helper()
	return s.Sh("cat /etc/virt-rotate/policy.toml; cd /var/lib/virt-rotate && find . -type f ! -name run.lock | sort | xargs sha256sum")
}

// keptFiles is the policy, and what is in the state directory.
func (s *system) keptFiles() string {
	s.t.Helper()
	return s.Sh("cat /etc/virt-rotate/policy.toml; cd /var/lib/virt-rotate && find . -type f | sort")
}

// upgrades has a run at work meanwhile: it goes on to its end, with the binary that it began with.
func (s *system) upgrades() {
	s.t.Helper()
	s.Sh("systemctl start virt-rotate.timer")
	was := s.keptWhileStopped()
	pid := s.runThatWaits()
	s.Sh("apt-get install -y -qq ./later/virt-rotate.deb")
	if got := s.Sh("virt-rotate --version"); !strings.Contains(got, laterVersion) {
		s.t.Errorf("--version says %q", got)
	}
	if is := s.Property("virt-rotate.service", "MainPID"); is != pid {
		s.t.Errorf("the run at work was process %s and is %s", pid, is)
	}
	s.Sh("cp -a /root/policy.toml /etc/virt-rotate/policy.toml")
	if is := s.kept(); is != was {
		s.t.Errorf("the upgrade has changed\n%s\nto\n%s", was, is)
	}
	s.Sh("touch /run/go")
	s.awaitEndOfRuns()
	s.succeeded("0")
	if got := s.Sh("systemctl is-enabled virt-rotate.timer"); got != "enabled\n" {
		s.t.Errorf("after the upgrade the timer is %s", got)
	}
	s.rotatesOnce()
}

// runThatWaits starts a run whose hook waits for /run/go, and returns its process.
func (s *system) runThatWaits() (pid string) {
	s.t.Helper()
	s.Write("/usr/local/sbin/wait", "#!/bin/sh\ntouch /var/lib/virt-rotate/waits\nuntil [ -e /run/go ]; do sleep 0.1; done\n", 0o755)
	s.Sh("cp -a /etc/virt-rotate/policy.toml /root/policy.toml; printf '[policy.all.hooks]\\nbefore = [\"/usr/local/sbin/wait\"]\\n' >>/etc/virt-rotate/policy.toml")
	s.WaitWrites(30)
	time.Sleep(1500 * time.Millisecond)
	s.Sh("rm -f /run/go; systemctl reset-failed virt-rotate.service; systemctl start --no-block virt-rotate.service")
	s.Await("the hook", func() (bool, error) { return s.Exists("/var/lib/virt-rotate/waits"), nil })
	s.Sh("rm /var/lib/virt-rotate/waits")
	return s.Property("virt-rotate.service", "MainPID")
}

func (s *system) awaitEndOfRuns() {
	s.t.Helper()
	s.Await("runs to end", func() (bool, error) {
		return s.Property("virt-rotate.service", "ActiveState") != "activating", nil
	})
}

// keptWhileStopped makes the timer wait for long, so that no run comes between.
func (s *system) keptWhileStopped() string {
	s.t.Helper()
	s.Sh("rm -r /etc/systemd/system/virt-rotate.timer.d; systemctl daemon-reload; systemctl restart virt-rotate.timer")
	s.awaitEndOfRuns()
	return s.kept()
}

// removes has a run at work as well: it is stopped, and its work is done once the package is back.
func (s *system) removes() {
	s.t.Helper()
	s.runThatWaits()
	s.Sh("cp -a /root/policy.toml /etc/virt-rotate/policy.toml")
	was, snapshots := s.keptFiles(), s.Snapshots()
	if got := s.Property("virt-rotate.timer", "ActiveState"); got != "active" {
		s.t.Errorf("after the upgrade the timer is %s", got)
	}
	s.Sh("apt-get remove -y -qq virt-rotate")
	if is := s.keptFiles(); is != was { // the run that was stopped has told of it in the history
		s.t.Errorf("the removal has changed\n%s\nto\n%s", was, is)
	}
	if s.Exists("/usr/bin/virt-rotate") || s.Exists("/usr/lib/systemd/system/virt-rotate.timer") {
		s.t.Error("the program or its timer is still there")
	}
	if out, code := s.Try("pgrep -x virt-rotate"); code == 0 {
		s.t.Errorf("after the removal a run is still at work: %s", out)
	}
	if got := s.Property("virt-rotate.timer", "ActiveState"); got != "inactive" {
		s.t.Errorf("after the removal the timer is %s", got)
	}
	if !slices.Equal(s.Snapshots(), snapshots) {
		s.t.Errorf("snapshots were %q and are %q", snapshots, s.Snapshots())
	}
	s.Sh("apt-get install -y -qq ./later/virt-rotate.deb")
	if got, _ := s.Try("systemctl is-enabled virt-rotate.timer"); got != "enabled\n" {
		s.t.Errorf("installed again, the timer is %s", got)
	}
	s.rotatesOnce()
}

func (s *system) purges() {
	s.t.Helper()
	s.Write("/var/lib/virt-rotate/intents/unfinished.json", "{}", 0o600)
	s.Write("/etc/virt-rotate/hook", "#!/bin/sh\n", 0o755)
	out := s.Sh("apt-get purge -y -qq virt-rotate 2>&1")
	if !s.Exists("/var/lib/virt-rotate/intents/unfinished.json") || !strings.Contains(out, "/var/lib/virt-rotate stays") {
		s.t.Errorf("the purge removes the journal of work that is not finished, or does not tell that it stays:\n%s", out)
	}
	if !s.Exists("/etc/virt-rotate/hook") || !strings.Contains(out, "/etc/virt-rotate stays") {
		s.t.Errorf("the purge removes a program of the administrator's:\n%s", out)
	}
	for _, gone := range []string{"/etc/virt-rotate/policy.toml", "/var/lib/virt-rotate/history.db", "/etc/systemd/system/timers.target.wants/virt-rotate.timer"} {
		if s.Exists(gone) {
			s.t.Errorf("after the purge there is still %s", gone)
		}
	}
	s.Sh("rm -r /etc/systemd/system/virt-rotate-failure@.service /etc/virt-rotate/hook /var/lib/virt-rotate/*; apt-get install -y -qq ./virt-rotate.deb; virt-rotate policy init; systemctl start virt-rotate.service")
	s.Sh("rm -rf /var/lib/virt-rotate/released/* /var/lib/virt-rotate/lost/*; apt-get purge -y -qq virt-rotate")
	s.leavesNothing()
}

func (s *system) leavesNothing() {
	s.t.Helper()
	if left, _ := s.Try("find / -xdev -name '*virt-rotate*' ! -path '/root/*' ! -path '/proc/*' ! -path '/sys/*' ! -path '/run/*' ! -path '/tmp/*' ! -path '/var/cache/man/*' -exec find {} +"); left != "" {
		s.t.Errorf("after the purge there is still\n%s", left)
	}
}

// hasCockpit installs Cockpit's page, which brings what it needs, is found by Cockpit, and goes without a trace. There
// is no network: what apt would install beside is only asked for.
func (s *system) hasCockpit() {
	s.t.Helper()
	said := s.Sh("apt-get install -s ./virt-rotate.deb ./virt-rotate-cockpit.deb")
	for _, name := range []string{"virt-rotate", "cockpit-bridge", "cockpit-ws", "cockpit"} {
		if !strings.Contains(said, "\nInst "+name+" ") {
			s.t.Errorf("apt would not install %s:\n%s", name, said)
		}
	}
	if out, code := s.Try("apt-get install -s ./later/virt-rotate.deb ./virt-rotate-cockpit.deb"); code == 0 {
		s.t.Errorf("it is installed with a program of another version:\n%s", out)
	}
	s.Sh("apt-get install -y -qq --no-install-recommends ./virt-rotate.deb ./virt-rotate-cockpit.deb")
	if out := s.Sh("cockpit-bridge --packages"); !strings.Contains(out, "/usr/share/cockpit/virt-rotate\n") {
		s.t.Errorf("Cockpit does not find the page:\n%s", out)
	}
	s.Sh("dpkg --verify virt-rotate-cockpit && apt-get remove -y -qq virt-rotate-cockpit")
	if s.Exists("/usr/share/cockpit/virt-rotate") || !s.Exists("/usr/bin/virt-rotate") {
		s.t.Error("the page is still there, or the program has gone with it")
	}
	s.Sh("apt-get install -y -qq --no-install-recommends ./virt-rotate-cockpit.deb && apt-get purge -y -qq virt-rotate")
	if s.Exists("/usr/share/cockpit/virt-rotate") {
		s.t.Error("the page is there without the program")
	}
	s.leavesNothing()
}

// packages are those of one version.
type packages struct {
	version, deb, rpm, apk, tarball string
	cockpitDeb, cockpitRPM          string
}

// packagesOf builds the packages, of the checkout's version or of another one.
func packagesOf(t *testing.T, version string) packages {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	if p, ok := built[version]; ok {
		return p
	}
	dir, err := filepath.Abs(filepath.Join(buildDir, "packages"+version))
	must(t, err)
	cmd := exec.Command(top+"/packaging/build.sh", "deb", "rpm", "apk", "tarball")
	cmd.Env = append(os.Environ(), "VERSION="+version, "OUT="+dir)
	output(t, cmd)
	p := packages{version: version}
	for pattern, path := range map[string]*string{"virt-rotate_*.deb": &p.deb, "virt-rotate-[0-9]*.rpm": &p.rpm, "*.apk": &p.apk, "*.tar.gz": &p.tarball,
		"virt-rotate-cockpit_*.deb": &p.cockpitDeb, "virt-rotate-cockpit-*.rpm": &p.cockpitRPM} {
		found, err := filepath.Glob(dir + "/" + pattern)
		must(t, err)
		if len(found) != 1 {
			t.Fatalf("packages %s: %q", pattern, found)
		}
		*path = found[0]
	}
	if version == "" {
		p.version = strings.Fields(output(t, exec.Command(top+"/packaging/version.sh")))[0]
	}
	built[version] = p
	return p
}
