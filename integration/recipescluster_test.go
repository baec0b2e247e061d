package integration_test

import (
	"os"
	"path/filepath"
	"strings"
)

// inACluster has no cluster: integration/hosts has two hosts on which the agent starts guests.
func inACluster(r *recipe) {
	r.on(newDaemonBed(r.t), "")
	examples, err := filepath.Abs("../examples")
	must(r.t, err)
	r.places = append([]string{"/usr/share/doc/virt-rotate/examples", examples, "/usr/lib/ocf", r.path("ocf"), "/usr/local/sbin", r.path("sbin"), "/srv/images", r.path("images")}, r.places...)
	r.writePolicy(strings.NewReplacer(r.places...).Replace(r.tables[0]) + recipePolicy)
	r.boots()
	r.types("cd /usr/share/doc")
	r.command("sed -i 's|qemu:///system|%s|' %s; test -x %s", r.host.URI(), r.path("sbin/virt-rotate-save-config"), r.path("ocf/resource.d/virt-rotate/virt-rotate-domain"))
	r.types("mkdir -p -m 0700 /srv/images/cluster")
	r.leave("pcs resource create", "there is no cluster here")
	r.leave("pcs resource unmanage", "there is no cluster here")
	r.rotate("run", "--now").wantExit(r.t, 0)
	text, err := os.ReadFile(r.path("images/cluster/web-1.xml"))
	must(r.t, err)
	r.wantSaid(string(text), r.chain("web-1", "vda")[0].Path)
	if left, err := filepath.Glob(r.path("images/cluster/.*")); err != nil || len(left) > 0 {
		r.t.Errorf("%q are left, %v", left, err)
	}
	r.checkGuest("web-1")
}
