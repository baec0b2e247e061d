package images

import "github.com/virt-rotate/virt-rotate/internal/convert"

// Converter carries conversions out as --sparse and --compress say, where a command has them.
// Where it has not, zeros are looked for in raw disks only, which have no flags for them.
func (r *Run) Converter() *convert.Converter {
	return &convert.Converter{Store: r.Store, Sparse: r.String("sparse") != "0", RawOnly: r.String("sparse") == "",
		Compress: r.Bool("compress"), Bitmaps: r.Bool("bitmaps"), Progress: r.Progress}
}

// Convert measures, and does it unless that is all that was wanted.
func (r *Run) Convert(all []*convert.Conversion) error {
	v := r.Converter()
	if err := v.Measure(r.Ctx(), all); err != nil {
		return err
	}
	if !r.Bool("dry-run") {
		if err := v.Convert(r.Ctx(), all); err != nil {
			if all[0].Into == nil {
				r.Moved = 0 // what was changed is gone again
			}
			return err
		}
	}
	return r.Steps(ConvertSteps(all))
}

// ConvertSteps are what is told of conversions.
func ConvertSteps(all []*convert.Conversion) []Step {
	var steps []Step
	for _, c := range all {
		steps = append(steps, Step{Op: "convert", Path: c.Source().Path, Target: c.Path, Bytes: &c.Bytes, Note: c.Format.Name + placeOf(c)})
	}
	return steps
}

// placeOf tells of what the image takes the place of.
func placeOf(c *convert.Conversion) string {
	switch {
	case c.Into != nil:
		return ", in place"
	case c.Renew != nil:
		return ", what differs, in place"
	case c.Old != nil:
		return ", in place of the file that was there"
	}
	return ""
}
