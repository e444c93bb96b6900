"""What users write models with: tensors, the ``ops`` namespace, transforms, ``nn`` modules and ``optim`` update rules."""
