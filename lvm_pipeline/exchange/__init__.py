"""NPZ files in and out. Read: npz_file, npz_objects, npz_columns, concept_table, npz_import, npz_export, data_file."""
