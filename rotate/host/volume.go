package host

// A Volume is how libvirt names a file or a device by one of its storage pools.
type Volume struct {
	Pool, Name string
	Mode       string `json:",omitempty"` // of iSCSI pools: by which way the host reaches it
}

func (v Volume) String() string { return v.Pool + "/" + v.Name }

// A Missing says why the file of a volume cannot be told.
type Missing string

// What can be the matter; the zero value is that its file is known.
const (
	PoolStopped Missing = "pool-stopped" // libvirt opens its volumes for nobody
	NoPool      Missing = "no-pool"
	NoVolume    Missing = "no-volume"  // libvirt does not list it in the pool
	NoFile      Missing = "no-file"    // it is no file or device of this host
	VolumeMoved Missing = "moved"      // the running guest has another file under that name
	NotTold     Missing = "no-storage" // libvirt's storage driver does not answer
)

// MissingVolume returns the first layer of the disk that is a volume whose file cannot be
// told, or nil.
func (d *Disk) MissingVolume() *Layer {
	for i := range d.Chain {
		if d.Chain[i].Kind == KindVolume {
			return &d.Chain[i]
		}
	}
	return nil
}

// Obstacle is why the disk can have no overlay, with the code of the refusal; "" where it can.
func (d *Disk) Obstacle() (code, why string) {
	if l := d.MissingVolume(); l != nil {
		return CodeVolumeDisk, l.Problem
	}
	return d.Kind.Obstacle()
}

// NameVolumes gives layers that were found by the headers of those above the names that
// libvirt has for them.
func (d *Domain) NameVolumes(layers []Layer) {
	for i := range layers {
		if l := &layers[i]; l.Volume == (Volume{}) {
			l.Volume = d.Volumes[l.Path]
		}
	}
}
