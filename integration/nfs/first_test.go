package nfs_test

import ("testing"; "github.com/virt-rotate/virt-rotate/integration/nfs"; "time")

func TestFirst(t *testing.T) {
	start := time.Now()
	l := newLab(t)
	t.Log("up", time.Since(start)); o, _ := l.Filer.Run("sh","-c", "uptime; dmesg | grep -v ACPI | tail -60; free"); t.Log(o)
	for _, o := range []string{"vers=4.2", "vers=3", "vers=3,nolock", "vers=3,local_lock=all"} {
		w := nfs.Way{o, o}
		for _, h := range l.Hosts {
			must(t, l.Mount(h, w, "first"))
			s, err := h.Run("grep", "share", "/proc/self/mountinfo")
			t.Log(s, err)
			must(t, l.Unmount(h))
		}
	}
	t.Log("end", time.Since(start))
}
