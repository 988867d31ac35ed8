"""Networks: student, decoders, teachers, and the form that is exported."""
