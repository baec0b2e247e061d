package xapitest

import (
	"fmt"
	"io"
	"log"
	"maps"
	"slices"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// VM adds a guest; its UUID and reference are made of n.
func (s *Server) VM(n int, name, power string) (ref string) {
	ref = fmt.Sprintf("OpaqueRef:vm-%d", n)
	s.Put("VM_metrics", fmt.Sprintf("OpaqueRef:metrics-%d", n), Record{"start_time": "20240101T00:00:00Z"})
	s.Put("VM", ref, Record{"uuid": fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n), "name_label": name, "name_description": "", "power_state": power,
		"is_a_snapshot": false, "snapshot_of": "OpaqueRef:NULL", "snapshot_time": "19700101T00:00:00Z", "is_a_template": false, "is_control_domain": false,
		"memory_static_max": 1 << 30, "VCPUs_max": "2", "HVM_boot_params": map[string]string{"firmware": "uefi", "order": "cd"},
		"metrics": fmt.Sprintf("OpaqueRef:metrics-%d", n)})
	return ref
}

// UUID is that of the disk n.
func UUID(n int) string { return fmt.Sprintf("dddddddd-0000-4000-8000-%012d", n) }

// Disk adds a disk of the VM, or none's if that is "".
func (s *Server) Disk(n int, vm, device, name string, d Disk) (ref string) {
	ref = fmt.Sprintf("OpaqueRef:vdi-%d", n)
	s.Put("VDI", ref, Record{"uuid": UUID(n), "name_label": name, "name_description": "", "SR": "OpaqueRef:sr", "type": "user",
		"virtual_size": len(d.Content), "physical_utilisation": fmt.Sprint(len(d.Content) / 2), "managed": true, "missing": false, "read_only": false,
		"is_a_snapshot": false, "snapshot_of": "OpaqueRef:NULL", "snapshot_time": "19700101T00:00:00Z"})
	s.Fill(ref, d)
	if vm != "" {
		s.Attach(vm, ref, device, "Disk")
	}
	return ref
}

// Attach adds a VBD.
func (s *Server) Attach(vm, vdi, device, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.tables["VBD"][fmt.Sprintf("OpaqueRef:vbd-%d", s.next)] = Record{"VM": vm, "VDI": vdi, "userdevice": device, "type": kind}
}

// Snapshot takes one of a VM, as VM.snapshot does, at that time.
func (s *Server) Snapshot(vm, name, at string) (ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	result, code, _ := s.snapshot(vm, name)
	if code != "" {
		return ""
	}
	ref = fmt.Sprint(result)
	s.tables["VM"][ref]["snapshot_time"] = at
	for _, b := range s.tables["VBD"] {
		if b["VM"] == ref {
			s.tables["VDI"][fmt.Sprint(b["VDI"])]["snapshot_time"] = at
		}
	}
	return ref
}

// snapshot copies the VM and its disks.
func (s *Server) snapshot(vm, name string) (result any, code string, params []string) {
	of := s.tables["VM"][vm]
	if of == nil {
		return nil, "HANDLE_INVALID", []string{"VM", vm}
	}
	s.next++
	n := s.next
	at := fmt.Sprintf("20240601T00:00:%02dZ", n%60)
	ref := fmt.Sprintf("OpaqueRef:snap-%d", n)
	snap := maps.Clone(of)
	maps.Copy(snap, Record{"uuid": fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", n), "name_label": name, "is_a_snapshot": true, "snapshot_of": vm,
		"snapshot_time": at, "is_a_template": true, "power_state": "Halted"})
	s.tables["VM"][ref] = snap
	for _, key := range slices.Sorted(maps.Keys(s.tables["VBD"])) {
		b := s.tables["VBD"][key]
		if b["VM"] != vm || b["type"] != "Disk" {
			continue
		}
		s.next++
		vdi := fmt.Sprint(b["VDI"])
		copyRef := fmt.Sprintf("OpaqueRef:snapvdi-%d", s.next)
		d := maps.Clone(s.tables["VDI"][vdi])
		maps.Copy(d, Record{"uuid": fmt.Sprintf("eeeeeeee-0000-4000-8000-%012d", s.next), "is_a_snapshot": true, "snapshot_of": vdi, "snapshot_time": at})
		s.tables["VDI"][copyRef] = d
		content := s.disks[vdi]
		content.Content = slices.Clone(content.Content)
		s.disks[copyRef] = content
		s.tables["VBD"]["OpaqueRef:snapvbd-"+fmt.Sprint(s.next)] = Record{"VM": ref, "VDI": copyRef, "userdevice": b["userdevice"], "type": "Disk"}
	}
	return ref, "", nil
}

// Set changes one field of a record.
func (s *Server) Set(class, ref, field string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := maps.Clone(s.tables[class][ref])
	r[field] = value
	s.tables[class][ref] = r
}

// Field reads one.
func (s *Server) Field(class, ref, field string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables[class][ref][field]
}

// DisksOf lists the disks of a VM, by reference.
func (s *Server) DisksOf(vm string) (refs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(s.tables["VBD"])) {
		if b := s.tables["VBD"][key]; b["VM"] == vm && b["type"] == "Disk" {
			refs = append(refs, fmt.Sprint(b["VDI"]))
		}
	}
	return refs
}

// Content is what a disk has.
func (s *Server) Content(vdi string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disks[vdi].Content
}

// Share lets this host answer for the disks of another one, with its sessions.
func (s *Server) Share(other *Server) {
	other.mu.Lock()
	defer other.mu.Unlock()
	s.tables, s.disks, s.sessions = other.tables, other.disks, other.sessions
}

// SnapshotsOf lists the snapshots of a VM.
func (s *Server) SnapshotsOf(vm string) (refs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range slices.Sorted(maps.Keys(s.tables["VM"])) {
		if s.tables["VM"][ref]["snapshot_of"] == vm {
			refs = append(refs, ref)
		}
	}
	return refs
}

// Mend takes all faults back.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}
