package decide

// planFirmware lets UEFI variables and TPM state go back with the disks, if all of these do. That they
// can be read is for who carries it out to see.
func (s *Restoration) planFirmware(b *builder) {
	if !b.d.UEFI && !b.d.HasTPM || s.o.NoFirmware || len(s.o.Disks) > 0 {
		return
	}
	path := s.Snapshot.FirmwareFile()
	switch _, there := b.w.Left[path]; {
	case path == "":
		s.warnings = append(s.warnings, "the snapshot has no copy of UEFI variables or TPM state: they stay as they are")
	case !there:
		s.warnings = append(s.warnings, path+" is gone, which had UEFI variables and TPM state of the snapshot: they stay as they are")
	default:
		s.Firmware = path
		b.add(Step{Op: OpFirmware, Snapshot: s.Snapshot.Name, Path: path, Reason: "UEFI variables and TPM state go back, too"})
	}
}
