package merchant

// RecordForTest makes the record of a file that need not be valid.
func RecordForTest(version int64, text string) []byte { return newRecord(version, []byte(text)).bytes }
