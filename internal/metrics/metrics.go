package metrics

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/virt-rotate/virt-rotate/internal/history"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// A Host is what is told of a host.
type Host struct {
	Version string
	Up      bool // libvirt has answered: without, only what is on record is told
	Level   rotate.Level
	Runs    history.HostRuns
	Guests  []Guest
	// Storages are those that other hosts have, too.
	Storages []Storage
}

// A Storage is one that other hosts have, too.
type Storage struct {
	Dir     string
	Blocked bool                 // nothing is merged there
	Peers   map[string]time.Time // when each of them has told last, by its name
}

// A Guest is a domain that a policy covers, or should cover.
type Guest struct {
	rotate.Verdict
	Status *rotate.DomainStatus // nil where libvirt has not told of it
	Totals *history.Totals      // nil where nothing is on record
	Took   time.Duration        // the last run on it; 0: not known
}

// uncovered tells whether no policy covers it, though one should.
func (g *Guest) uncovered() bool { return g.Policy == "" }

// Registry has the metrics of the host.
func Registry(h *Host) *prometheus.Registry {
	s := &set{prometheus.NewPedanticRegistry()}
	s.host(h)
	s.protection(h)
	s.chains(h)
	s.lastRuns(h)
	s.sums(h)
	s.storages(h)
	return s.registry
}

// Write replaces the file at path by the metrics of the host.
func Write(path string, h *Host) error { return prometheus.WriteToTextfile(path, Registry(h)) }

// Print writes them in Prometheus' text format.
func Print(w io.Writer, h *Host) error {
	families, err := Registry(h).Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// A set makes families of metrics.
type set struct{ registry *prometheus.Registry }

// gauge makes a family of what goes up and down, and returns how a value gets in.
func (s *set) gauge(name, help string, labels ...string) func(value float64, of ...string) {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "virt_rotate", Name: name, Help: help}, labels)
	s.registry.MustRegister(v)
	return func(value float64, of ...string) { v.WithLabelValues(valid(of)...).Set(value) }
}

// counter is gauge for what only grows.
func (s *set) counter(name, help string, labels ...string) func(value float64, of ...string) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "virt_rotate", Name: name, Help: help}, labels)
	s.registry.MustRegister(v)
	return func(value float64, of ...string) { v.WithLabelValues(valid(of)...).Add(max(value, 0)) }
}

// valid makes values UTF-8, which the library wants.
func valid(values []string) []string {
	for i := range values {
		values[i] = strings.ToValidUTF8(values[i], "\uFFFD")
	}
	return values
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *set) host(h *Host) {
	s.gauge("build_info", "The virt-rotate that wrote this.", "version", "goversion")(1, h.Version, runtime.Version())
	s.gauge("libvirt_up", "Whether libvirt has answered. Without, only what is on record is told.")(flag(h.Up))
	s.gauge("check_level", "The verdict on the host: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.")(float64(h.Level))
	covered := s.gauge("domains", "Domains of the host that a policy covers.")
	uncovered := s.gauge("uncovered_domains", "Domains of the host that no policy covers, and one should.")
	if h.Up {
		n := 0
		for i := range h.Guests {
			if h.Guests[i].uncovered() {
				n++
			}
		}
		covered(float64(len(h.Guests) - n))
		uncovered(float64(n))
	}
	end := s.gauge("last_run_timestamp_seconds", "When the last run on the host ended.")
	took := s.gauge("last_run_duration_seconds", "How long the last run on the host took.")
	runs := s.counter("runs_total", "Runs on the host.")
	if h.Runs.Count > 0 {
		end(unix(h.Runs.End))
		took(h.Runs.End.Sub(h.Runs.Start).Seconds())
		runs(float64(h.Runs.Count))
	}
}

// storages are those that other hosts have, too.
func (s *set) storages(h *Host) {
	blocked := s.gauge("storage_blocked", "Whether nothing is merged on a storage that other hosts have, too: virt-rotate fleet status says why.", "storage")
	told := s.gauge("storage_host_told_timestamp_seconds", "When another host with that storage has told last what its guests use there.", "storage", "host")
	for i := range h.Storages {
		storage := &h.Storages[i]
		blocked(flag(storage.Blocked), storage.Dir)
		for name, at := range storage.Peers {
			told(unix(at), storage.Dir, name)
		}
	}
}

// protection is what check says.
func (s *set) protection(h *Host) {
	info := s.gauge("domain_info", "A domain of the host, with its policy and its state in libvirt's words.", "domain", "policy", "state")
	level := s.gauge("domain_check_level", "The verdict on the domain: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.", "domain")
	problem := s.gauge("domain_problem", "What makes the verdict less than OK, with the level of that.", "domain", "code")
	uncovered := s.gauge("domain_uncovered", "A domain that no policy covers, and one should.", "domain")
	snapshots := s.gauge("domain_snapshots", "Snapshots that virt-rotate has taken and that are there.", "domain")
	newest := s.gauge("domain_newest_snapshot_timestamp_seconds", "When the newest of them was taken.", "domain")
	warn := s.gauge("domain_snapshot_warning_age_seconds", "Age of the newest snapshot from which on the verdict is WARNING. None where its age does not matter.", "domain")
	crit := s.gauge("domain_snapshot_critical_age_seconds", "Age of the newest snapshot from which on the verdict is CRITICAL. None where its age does not matter.", "domain")
	for i := range h.Guests {
		g := &h.Guests[i]
		level(float64(g.Level), g.Domain)
		for _, r := range slices.Backward(g.Reasons) { // the worst comes first, and counts
			problem(float64(r.Level), g.Domain, r.Code)
		}
		if g.uncovered() {
			uncovered(1, g.Domain)
			continue
		}
		if g.Status == nil {
			continue
		}
		info(1, g.Domain, g.Policy, string(g.Status.State))
		snapshots(float64(g.Snapshots), g.Domain)
		if g.Newest != nil {
			newest(unix(*g.Newest), g.Domain)
		}
		if g.MaxAge > 0 {
			warn(g.MaxAge.Seconds(), g.Domain)
			crit(g.CritAge.Seconds(), g.Domain)
		}
	}
}

// chains are what the disks take.
func (s *set) chains(h *Host) {
	layers := s.gauge("domain_chain_layers", "Layers of the disk's chain, base and active layer included.", "domain", "disk")
	allocated := s.gauge("domain_allocated_bytes", "Space on storage that the disk's chain takes.", "domain", "disk")
	memory := s.gauge("domain_memory_bytes", "Space on storage that the memory takes which snapshots of the domain keep.", "domain")
	most := s.gauge("domain_max_chain_layers", "Layers beyond which the policy takes no snapshot.", "domain")
	free := s.gauge("domain_storage_free_bytes", "Free space of the storage that snapshots of the domain write to, of the fullest if there are several.", "domain")
	floor := s.gauge("domain_storage_min_free_bytes", "Space that the policy keeps free there.", "domain")
	for i := range h.Guests {
		g := &h.Guests[i]
		if g.Status == nil {
			continue
		}
		for j := range g.Status.Disks {
			disk := &g.Status.Disks[j]
			sum := int64(0)
			for k := range disk.Chain {
				sum += disk.Chain[k].Allocated
			}
			layers(float64(len(disk.Chain)), g.Domain, disk.Target)
			allocated(float64(sum), g.Domain, disk.Target)
		}
		memory(float64(memoryBytes(g.Status)), g.Domain)
		if g.MaxChain > 0 {
			most(float64(g.MaxChain), g.Domain)
		}
		if g.Free >= 0 {
			free(float64(g.Free), g.Domain)
			floor(float64(g.MinFree), g.Domain)
		}
	}
}

// results are those that a run can come to.
func results() []string {
	return []string{decide.ResultNothing, decide.ResultDone, decide.ResultPartly, decide.ResultRefused, decide.ResultSkipped, decide.ResultFailed, decide.ResultCanceled}
}

func (s *set) lastRuns(h *Host) {
	at := s.gauge("domain_last_run_timestamp_seconds", "When the last run on the domain ended.", "domain")
	took := s.gauge("domain_last_run_duration_seconds", "How long the last run on the domain took.", "domain")
	result := s.gauge("domain_last_run_result", "What the last run came to: 1 for that result, 0 for the others.", "domain", "result")
	success := s.gauge("domain_last_success_timestamp_seconds", "When the last run ended that did all there was to do.", "domain")
	for i := range h.Guests {
		g := &h.Guests[i]
		if g.LastRun != nil {
			at(unix(g.LastRun.Time), g.Domain)
			for _, r := range results() {
				result(flag(r == g.LastRun.Result), g.Domain, r)
			}
		}
		if g.Took > 0 {
			took(g.Took.Seconds(), g.Domain)
		}
		if g.LastSuccess != nil {
			success(unix(*g.LastSuccess), g.Domain)
		}
	}
}

// sums only grow, as long as the history has an entry of a domain of that name.
func (s *set) sums(h *Host) {
	merged := s.counter("domain_merged_bytes_total", "Data in the layers that runs have merged.", "domain")
	freed := s.counter("domain_freed_bytes_total", "Space of the files that runs have deleted.", "domain")
	runs := s.counter("domain_runs_total", "Runs on the domain, by what they came to.", "domain", "result")
	refusals := s.counter("domain_refusals_total", "Runs that refused something, by the code of the refusal.", "domain", "code")
	for i := range h.Guests {
		g := &h.Guests[i]
		if g.Totals == nil {
			continue
		}
		merged(float64(g.Totals.Merged), g.Domain)
		freed(float64(g.Totals.Freed), g.Domain)
		for result, n := range g.Totals.Runs {
			runs(float64(n), g.Domain, result)
		}
		for code, n := range g.Totals.Refused {
			refusals(float64(n), g.Domain, code)
		}
	}
}

func memoryBytes(s *rotate.DomainStatus) (sum int64) {
	for i := range s.Snapshots {
		if m := s.Snapshots[i].Memory; m != nil {
			sum += m.Allocated
		}
	}
	return sum
}
