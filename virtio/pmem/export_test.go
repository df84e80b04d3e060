package pmem

// SetSync has another sync of the file. Call it before the device is used.
func (d *Device) SetSync(sync func() error) { d.sync = sync }
