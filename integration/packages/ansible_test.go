//go:build packages

package packages_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/nspawn"
)

const play = `- hosts: all
  connection: local
  roles:
    - role: virt_rotate
      vars:
        virt_rotate_package: /root/virt-rotate.deb
        virt_rotate_on_calendar: "*:0/5"
        virt_rotate_jitter: 1s
        virt_rotate_check_fails_at: 3 # a guest without a snapshot is critical
        virt_rotate_policy: |
          [policy.all]
          domains = ["*"]
          every = "KEEP"
          keep = { last = 2 }
`

// The role makes a fresh host rotate: package, policy, timer, and a check. Once more it changes nothing; a policy
// with an error replaces nothing.
func TestTheRoleMakesAHostRotate(t *testing.T) {
	s := &system{nspawn.Boot(t, "bookworm"), t}
	s.Bring(packagesOf(t, "").deb, "/root/virt-rotate.deb")
	s.StartGuest()
	s.Sh("apt-get install -y -qq --no-install-recommends ansible-core python3-apt")
	s.role(t)
	if out := s.plays("1h"); !strings.Contains(out, "failed=0") || strings.Contains(out, "changed=0") {
		t.Fatalf("the play says\n%s", out)
	}
	if got := s.Property("virt-rotate.timer", "ActiveState"); got != "active" {
		t.Errorf("the timer is %s", got)
	}
	if got := s.Sh("systemctl show virt-rotate.timer -p RandomizedDelayUSec -p TimersCalendar"); !strings.Contains(got, "RandomizedDelayUSec=1s") || !strings.Contains(got, "*:00/5:00") || strings.Contains(got, "*:00:00 ;") {
		t.Errorf("the timer is set to\n%s", got)
	}
	if got := s.Sh("stat -c %a:%U:%G /etc/virt-rotate/policy.toml"); got != "640:root:root\n" {
		t.Errorf("the policy has %s", got)
	}
	s.Sh("systemctl start virt-rotate.service")
	if n := len(s.Snapshots()); n != 1 {
		t.Errorf("%d snapshots after a run", n)
	}
	if out := s.plays("1h"); !strings.Contains(out, "changed=0") {
		t.Errorf("the second time something changes\n%s", out)
	}
	before := s.Sh("cat /etc/virt-rotate/policy.toml")
	out, code := s.Try("cd /root/ansible && ansible-playbook -i kvm1, KEEP.yml")
	if code == 0 || !strings.Contains(out, "failed to validate") {
		t.Errorf("a policy with an error: %d\n%s", code, out)
	}
	if now := s.Sh("cat /etc/virt-rotate/policy.toml"); now != before {
		t.Errorf("a policy with an error is there\n%s", now)
	}
}

// role brings the role, and a play with an error.
func (s *system) role(t *testing.T) {
	t.Helper()
	tar := t.TempDir() + "/ansible.tar"
	if out, err := exec.Command("tar", "-C", top+"/deploy", "-cf", tar, "ansible").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.Bring(tar, "/root/ansible.tar")
	s.Sh("cd /root && tar -xf ansible.tar")
	s.Write("/root/ansible/KEEP.yml", play, 0o644)
}

func (s *system) plays(every string) string {
	s.t.Helper()
	s.Write("/root/ansible/play.yml", strings.Replace(play, "KEEP", every, 1), 0o644)
	return s.Sh("cd /root/ansible && ansible-playbook -i kvm1, play.yml")
}
