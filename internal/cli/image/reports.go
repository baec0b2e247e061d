package image

import "github.com/virt-rotate/virt-rotate/internal/cli/images"

// Reports are what the commands print as JSON that qemu-img has not, each by the words of
// its command. Export prints the same as those that write images.
func Reports() map[string]any {
	steps := images.Report{}
	return map[string]any{
		"image-amend": steps, "image-bitmap": BitmapReport{}, "image-commit": steps, "image-compact": CompactReport{}, "image-compare": CompareReport{}, "image-convert": steps, "image-create": steps,
		"image-pull": steps, "image-resize": steps, "image-snapshot": SnapshotReport{}, "image-unfold": UnfoldReport{}, "image-rebase": steps, "export": steps,
	}
}
